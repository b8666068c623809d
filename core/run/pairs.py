"""The road of pictures with texts: a dual encoder, aligned by an objective."""

from __future__ import annotations

from pathlib import Path

import torch
from omegaconf import DictConfig

from core.data.describe import describe
from core.run.evaluate import finish
from core.run.inputs import make_data, read_inputs
from core.run.instantiate import instantiate
from core.run.load import build_model
from core.run.road import Prepared


def prepare(cfg: DictConfig, folder: Path) -> Prepared:
    """Reads the data of a config and builds its model.

    Raises:
        UserError: anything the user can mend; see the message.
    """
    inputs = read_inputs(cfg, folder)
    torch.manual_seed(cfg.seed)  # initial weights; every later draw is keyed by (seed, step)
    model = build_model(cfg)
    data = make_data(cfg, inputs, model)
    fates = data.prepare()
    describe(
        inputs.manifest,
        inputs.findings,
        fates,
        inputs.concepts,
        inputs.relations.group,
        inputs.group_names,
        cfg.data.sharing,
    )
    task = instantiate(cfg.task, model=model, objective=instantiate(cfg.objective))
    return Prepared(task, data, fates, lambda: finish(cfg, folder, inputs, data, model))
