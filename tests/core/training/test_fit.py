"""Training as a whole: it learns, stops when told, goes on where it stopped, and says what was wrong."""

from __future__ import annotations

import csv
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from core.data.manifest import Manifest
from core.models.weights import load_trained
from core.objectives.sigmoid import SigmoidContrastive
from core.objectives.softmax import SoftmaxContrastive
from core.training.alignment import AlignmentTask
from core.training.callbacks import ShowProgress, StopOnSignal
from core.training.checkpoint import LAST, SCHEMA_VERSION, AtomicCheckpointIO, Checkpoints, read_checkpoint
from core.training.classification import ArrayData, fit_classifier
from core.training.fit import Interrupted, TrainerOptions, fit, trainer_options
from core.training.logger import MetricsCsv, wandb_logger
from core.training.module import TrainingModule
from core.training.optimiser import AdamW, CosineWarmup
from core.training.step import Cached, Plain, Step
from core.types import Batch, UserError
from tests.core.data.cohort import make_module, write_cohort
from tests.core.models.test_dual_encoder import from_config
from tests.core.training.worlds import WORDS, PairWorld, tiny_pair

CPU = TrainerOptions(accelerator="cpu", precision="32-true", log_every=5, checkpoint_every=4)


def train(folder: Path | None, steps: int = 12, data: Any = None, **options: Any) -> TrainingModule:
    step: Step = options.pop("step", Plain())
    return fit(
        AlignmentTask(tiny_pair(3, options.pop("dropout", 0.3)), options.pop("objective", SoftmaxContrastive())),
        data or PairWorld(64, 16, seed=5),
        folder,
        step=step,
        optimiser=AdamW(0.01),
        schedule=CosineWarmup(steps, 2),
        seed=options.pop("seed", 11),
        trainer=options.pop("trainer", CPU),
        **options,
    )


def test_the_default_pair_overfits_sixteen_pairs(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = from_config("small")
    tokens = model.tokenize([f"{colour} {shape}" for colour in ["red", "green", "blue", "grey"] for shape in "abcd"])
    world = PairWorld(16, 16, seed=0, size=64, tokens=tokens)
    fit(
        AlignmentTask(model, SoftmaxContrastive()),
        world,
        None,
        step=Plain(),
        optimiser=AdamW(0.003),
        schedule=CosineWarmup(60, 5),
        seed=0,
        trainer=CPU,
    )
    assert not model.training
    with torch.no_grad():
        similarity = model.encode_images(world.images) @ model.encode_texts(world.tokens).T
    assert similarity.argmax(dim=1).tolist() == similarity.argmax(dim=0).tolist() == list(range(16))


def test_the_supervised_task_overfits() -> None:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (24, 3, 32, 32)).astype(np.uint8)
    labels = np.arange(24) % 3
    narrow = {"layers": (1, 1, 1, 1), "channels": (8, 16, 32, 64)}
    arguments: dict[str, Any] = {"steps": 40, "seed": 0, "lr": 0.01, "model_args": narrow, "augment": False}
    state = torch.get_rng_state()
    classifier = fit_classifier(images, labels, 3, batch_size=24, **arguments)
    assert torch.equal(state, torch.get_rng_state()), "a control moved the caller's random state"
    assert (classifier.predict(images) == labels).all()
    unknown = np.where(np.arange(24) < 12, labels, -1)
    again = fit_classifier(images, unknown, 3, batch_size=12, **arguments)
    assert (again.predict(images[:12]) == labels[:12]).all()
    assert (again.predict(images[12:]) == labels[12:]).mean() < 0.9, "unlabelled images were learned from"


def test_array_data_is_a_function_of_the_step() -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, 3, 8, 8)).astype(np.uint8)
    first, second = (ArrayData(images, np.arange(20), 6, seed=1, augment=True) for _ in range(2))
    list(first.train_batches(0, 5, 0, 1))
    assert torch.equal(first.batch(4).images, second.batch(4).images)
    seen = [name for step in range(3) for name in first.batch(step).ids]
    assert len(set(seen)) == len(seen) == 18


def test_a_run_leaves_curves_checkpoint_and_weights(tmp_path: Path) -> None:
    module = train(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [LAST, "metrics.csv", "model.safetensors"]
    with open(tmp_path / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["5", "10", "12"]
    assert list(rows[0]) == ["step", "loss", "image_to_text", "text_to_image", "lr", "logit_scale"]
    assert float(rows[0]["lr"]) == pytest.approx(0.01 * CosineWarmup(12, 2).factor(4))
    loaded = load_trained(tiny_pair(0, 0.0), tmp_path / "model.safetensors")
    assert torch.equal(loaded.logit_scale, module.task.exported().logit_scale)


def test_a_learned_bias_comes_back(tmp_path: Path) -> None:
    module = train(tmp_path, objective=SigmoidContrastive())
    loaded = load_trained(tiny_pair(0, 0.0), tmp_path / "model.safetensors")
    assert loaded.logit_bias is not None
    assert torch.equal(loaded.logit_bias, module.task.exported().logit_bias)
    assert float(loaded.logit_bias.detach()) != SigmoidContrastive.initial_bias


class SignalAt(pl.Callback):
    """Sends this process a signal in the middle of a step."""

    def __init__(self, step: int, number: signal.Signals) -> None:
        self.step, self.number = step, number

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Batch, batch_idx: int) -> None:
        if batch.step == self.step:
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2])
def test_a_signal_stops_at_the_batch_boundary_and_the_run_goes_on(tmp_path: Path, number: signal.Signals) -> None:
    train(tmp_path / "clean")
    before = signal.getsignal(number)
    with pytest.raises(Interrupted, match=f"{number.name} after optimiser step 7 of 12"):
        train(tmp_path / "run", callbacks=[SignalAt(6, number)])
    assert signal.getsignal(number) == before
    assert read_checkpoint(tmp_path / "run" / LAST)["global_step"] == 7
    assert not (tmp_path / "run" / "model.safetensors").exists()
    train(tmp_path / "run", resume=tmp_path / "run" / LAST)
    clean, resumed = (load_file(tmp_path / name / "model.safetensors") for name in ("clean", "run"))
    assert all(torch.equal(clean[key], resumed[key]) for key in clean)


def test_resuming_a_finished_run_changes_nothing(tmp_path: Path) -> None:
    train(tmp_path)
    weights = (tmp_path / "model.safetensors").read_bytes()
    train(tmp_path, resume=tmp_path / LAST)
    assert (tmp_path / "model.safetensors").read_bytes() == weights


def test_another_seed_is_refused_on_resume(tmp_path: Path) -> None:
    train(tmp_path)
    with pytest.raises(UserError, match="seed 11"):
        train(tmp_path, resume=tmp_path / LAST, seed=12)


class Cohort:
    """A cohort of files, in words that the tiny towers know."""

    def __init__(self, manifest: Path) -> None:
        self.module = make_module(manifest)
        self.fates = self.module.prepare(progress=False)
        self.fingerprint = self.module.fingerprint

    def train_batches(self, start_step: int, stop_step: int, rank: int, size: int) -> Iterator[Batch]:
        batches = self.module.train_batches(start_step, stop_step, rank, size)
        return (replace(batch, tokens=batch.tokens % WORDS) for batch in batches)


def test_a_run_does_not_go_on_over_other_pictures(tmp_path: Path) -> None:
    manifest = write_cohort(tmp_path)
    run = tmp_path / "run"
    with pytest.raises(Interrupted, match="step 3 of 12"):
        train(run, data=Cohort(manifest), callbacks=[SignalAt(2, signal.SIGTERM)])
    picture = tmp_path / Manifest.read(manifest).frame["path"][3]
    whole = picture.read_bytes()
    picture.write_bytes(b"became unreadable")
    with pytest.raises(UserError, match=r"not what this run began with.*last\.ckpt.*without resume="):
        train(run, data=Cohort(manifest), resume=run / LAST)
    assert read_checkpoint(run / LAST)["global_step"] == 3
    picture.write_bytes(whole)
    train(run, data=Cohort(manifest), resume=run / LAST)
    assert (run / "model.safetensors").is_file()


def test_a_run_whose_fingerprint_is_of_other_things_is_refused_as_such(tmp_path: Path) -> None:
    data = Cohort(write_cohort(tmp_path))
    with pytest.raises(Interrupted):
        train(tmp_path / "run", data=data, callbacks=[SignalAt(2, signal.SIGTERM)])
    data.fingerprint = f"pairs-2:{data.fingerprint}"
    with pytest.raises(UserError, match=r"begun by another version.*last\.ckpt.*without resume="):
        train(tmp_path / "run", data=data, resume=tmp_path / "run" / LAST)


def test_plain_and_cached_steps_train_alike(tmp_path: Path) -> None:
    weights = [train(None, dropout=0.0, step=step).task.state_dict() for step in (Plain(1.0), Cached(5, 1.0))]
    for key, value in weights[0].items():
        assert torch.linalg.vector_norm(value - weights[1][key]) <= 1e-4 * torch.linalg.vector_norm(value), key


class Poisoned(PairWorld):
    """From step 3 on, the network's output for one image is not a number."""

    def batch(self, step: int, rank: int = 0, size: int = 1) -> Batch:
        batch = super().batch(step, rank, size)
        if step == 3:
            self.broken = batch.ids[4]
            batch.tokens[4] = 0  # a token that the test gives an embedding of NaN
        return batch


def test_a_loss_that_is_not_finite_names_step_and_samples(tmp_path: Path) -> None:
    data = Poisoned(64, 16, seed=5)
    task = AlignmentTask(tiny_pair(3, 0.0), SoftmaxContrastive())
    task.model.text_tower.backbone.token_embedding.weight.data[0] = torch.nan
    with pytest.raises(UserError) as caught:
        fit(task, data, tmp_path, step=Plain(), optimiser=AdamW(0.01), schedule=CosineWarmup(9), seed=0, trainer=CPU)
    assert "at optimiser step 3." in str(caught.value)
    assert f"embeddings that are not finite: {data.broken}." in str(caught.value)


class Counter:
    """Counts steps; the smallest updater there is."""

    name = "counter"

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []
        self.seen = 0

    def before_step(self, task: Any, batch: Batch, step: int) -> None:
        self.calls.append(("before", step))

    def after_step(self, task: Any, step: int) -> None:
        self.calls.append(("after", step))
        self.seen += 1

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seen = state["seen"]


def test_updaters_step_with_the_optimiser_and_live_in_the_checkpoint(tmp_path: Path) -> None:
    counter = Counter()
    with pytest.raises(Interrupted):
        train(tmp_path, updaters=[counter], step=Cached(4), callbacks=[SignalAt(1, signal.SIGTERM)])
    assert counter.calls == [("before", 0), ("after", 0), ("before", 1), ("after", 1)]
    other = Counter()
    train(tmp_path, updaters=[other], resume=tmp_path / LAST)
    assert (other.seen, len(other.calls)) == (12, 20)
    with pytest.raises(UserError, match="counter"):
        train(tmp_path, resume=tmp_path / LAST)


def test_the_scale_is_clamped_in_training() -> None:
    task = AlignmentTask(tiny_pair(3, 0.0), SoftmaxContrastive())
    task.model.set_temperature(500.0)
    fit(
        task,
        PairWorld(64, 16, 5),
        None,
        step=Plain(),
        optimiser=AdamW(0.0),
        schedule=CosineWarmup(1),
        seed=0,
        trainer=CPU,
    )
    assert float(task.model.logit_scale.detach().exp()) == pytest.approx(100.0)


def test_checkpoints_refuse_what_they_cannot_trust(tmp_path: Path) -> None:
    files = AtomicCheckpointIO()
    files.save_checkpoint({"global_step": 3}, tmp_path / "good.ckpt")
    assert files.load_checkpoint(tmp_path / "good.ckpt") == {"global_step": 3, "schema_version": SCHEMA_VERSION}
    torch.save({"schema_version": SCHEMA_VERSION + 1}, tmp_path / "newer.ckpt")
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    torch.save({"schema_version": 1, "code": os.getcwd}, tmp_path / "code.ckpt")
    (tmp_path / "half.ckpt").write_bytes((tmp_path / "good.ckpt").read_bytes()[:200])
    words = {"newer": "schema version", "other": "no checkpoint", "code": "more than tensors", "half": "damaged"}
    for name, expected in {**words, "absent": "is not there"}.items():
        with pytest.raises(UserError, match=expected):
            read_checkpoint(tmp_path / f"{name}.ckpt")


def test_metrics_keep_their_header_and_are_cut_on_resume(tmp_path: Path) -> None:
    table = MetricsCsv(tmp_path)
    table.start(0)
    for step in (2, 4, 6):
        table.log_metrics({"loss": 1 / step, "lr": 0.1}, step)
    table = MetricsCsv(tmp_path)
    table.start(4)
    table.log_metrics({"lr": 0.2, "loss": 0.5}, 6)
    table.log_metrics({"loss": 0.25, "accuracy": 1.0}, 8)
    assert (tmp_path / "metrics.csv").read_text().splitlines() == [
        "step,loss,lr,accuracy",
        "2,0.5,0.1,",
        "4,0.25,0.1,",
        "6,0.5,0.2,",
        "8,0.25,,1.0",
    ]


def test_what_ranks_receive_travels_to_other_processes(tmp_path: Path) -> None:
    """Ranks beyond the first are spawned by default."""
    task = AlignmentTask(from_config("small"), SoftmaxContrastive())
    module = TrainingModule(task, Cached(4), AdamW(0.1), CosineWarmup(3), 0, [Counter()])
    table = MetricsCsv(tmp_path)
    table.start(0)
    pieces = (module, table, ShowProgress(3), StopOnSignal(), Checkpoints(tmp_path, 3), AtomicCheckpointIO())
    copies = pickle.loads(pickle.dumps(pieces))
    tokens = copies[0].task.model.tokenize(["a cell"])
    assert torch.equal(tokens, task.model.tokenize(["a cell"]))


def test_trainer_options_that_would_break_the_gradient_are_refused() -> None:
    assert trainer_options(devices=2) == TrainerOptions(devices=2)
    for key, words in (
        ("accumulate_grad_batches", "step=cached"),
        ("gradient_clip_val", "clip_norm"),
        ("max_epochs", "no option"),
    ):
        with pytest.raises(UserError, match=words):
            trainer_options(**{key: 2})


def test_wandb_runs_offline_and_reports_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "true")
    before = wandb_logger(tmp_path / "before")
    before.log_metrics({"loss": 2.0}, 1)  # and is left open, as Lightning does at the end of a job
    logger = wandb_logger(tmp_path)
    logger.log_metrics({"loss": 1.0}, 1)
    logger.experiment.finish()
    assert os.environ["WANDB_ERROR_REPORTING"] == "false"
    end = time.monotonic() + 60  # another process writes, and may still be at it when finish() returns
    while not any(b"private" in path.read_bytes() for path in tmp_path.glob("wandb/*/*.wandb")):
        assert time.monotonic() < end, "nothing with the host's name replaced was written"
        time.sleep(0.2)
    (record,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    assert logger.version in record.name
    assert wandb_logger(tmp_path).version == logger.version
    assert b"pytest" not in record.read_bytes()  # the command line


FULL_DISK = """
import resource, signal, sys
import torch
from core.models.weights import save_trained
from core.training.checkpoint import AtomicCheckpointIO
from core.types import UserError

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
for write in (
    lambda: AtomicCheckpointIO().save_checkpoint({"weights": torch.zeros(100_000)}, sys.argv[1] + "/last.ckpt"),
    lambda: save_trained(torch.nn.Linear(300, 300), sys.argv[1] + "/model.safetensors"),
):
    try:
        write()
    except UserError as error:
        print(error)
"""


def test_a_full_disk_is_told_and_leaves_nothing_behind(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FULL_DISK, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.count("File too large") == 2
    assert list(tmp_path.iterdir()) == []
