"""The default pair and the towers behind it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

import conf
from core.models.dual_encoder import DualEncoder, as_geometry, build
from core.models.normalise import Normalise
from core.models.tokenizer import ClipTokenizer
from core.models.towers import build_image_tower, build_text_tower
from core.types import Geometry, UserError

CONFIGS = sorted(Path(conf.__file__).parent.glob("model/*.yaml"))


def from_config(name: str, **changes: object) -> DualEncoder:
    values = yaml.safe_load(next(path for path in CONFIGS if path.stem == name).read_text())
    return build(**{key: value for key, value in values.items() if not key.startswith("_")}, **changes)


@pytest.fixture(scope="module")
def small() -> DualEncoder:
    torch.manual_seed(0)
    return from_config("small").eval()


def pictures(count: int, size: int = 64) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))


def test_embeddings_are_unit_vectors_and_repeat(small: DualEncoder) -> None:
    tokens = small.tokenize(["an eosinophil", "a lymphocyte and a platelet"])
    with torch.no_grad():
        images, texts = small.encode_images(pictures(4)), small.encode_texts(tokens)
        assert torch.equal(images, small.encode_images(pictures(4)))
        assert torch.equal(texts, small.encode_texts(tokens))
    assert images.shape == (4, 64)
    assert texts.shape == (2, 64)
    assert images.dtype == texts.dtype == torch.float32
    torch.testing.assert_close(torch.cat([images, texts]).norm(dim=1), torch.ones(6))


def test_samples_do_not_see_each_other(small: DualEncoder) -> None:
    """No batch statistics: a cached step and a batch of one give the same embeddings, in training mode too."""
    tokens = small.tokenize(["an eosinophil", "a much longer caption about a lymphocyte beside a platelet"])
    small.train()
    with torch.no_grad():
        whole = small.encode_images(pictures(3)), small.encode_texts(tokens)
        alone = (
            torch.cat([small.encode_images(image[None]) for image in pictures(3)]),
            torch.cat([small.encode_texts(row[None]) for row in tokens]),
        )
    small.eval()
    torch.testing.assert_close(whole, alone, rtol=1e-4, atol=1e-5)


def test_captions_are_cut_at_the_longest_without_changing_them(small: DualEncoder) -> None:
    tokens = small.tokenize(["wow ! great", "a ! !", ""])  # '!' has id 0, the padding's
    with torch.no_grad():
        torch.testing.assert_close(small.text_tower.features(tokens), small.text_tower.backbone(tokens))


def test_no_captions_give_no_rows(small: DualEncoder) -> None:
    assert small.encode_texts(small.tokenize([])).shape == (0, 64)


def test_an_interpolation_that_no_reader_has_is_refused() -> None:
    assert as_geometry({"size_px": 32, "interpolation": "bicubic"}).interpolation == "bicubic"
    with pytest.raises(UserError, match=r"'lanczos'.*choose from bilinear, bicubic"):
        as_geometry({"size_px": 32, "interpolation": "lanczos"})


def test_normalisation_is_the_geometrys() -> None:
    layer = Normalise(Geometry(2, None, mean=(0.5, 0.0, 1.0), std=(0.25, 1.0, 0.5)))
    image = torch.full((1, 3, 2, 2), 255, dtype=torch.uint8)
    torch.testing.assert_close(layer(image)[0, :, 0, 0], torch.tensor([2.0, 1.0, 0.0]))
    assert not layer.state_dict()


def test_another_size_and_floats_are_refused(small: DualEncoder) -> None:
    with pytest.raises(UserError, match="64 x 64"):
        small.encode_images(pictures(1, 96))
    with pytest.raises(TypeError, match="uint8"):
        small.encode_images(pictures(1).float())


def test_logit_scale_is_clamped(small: DualEncoder) -> None:
    for value, kept in ((-1.0, 1.0), (9.0, 100.0)):
        small.logit_scale.data.fill_(value)
        small.clamp()
        assert float(small.logit_scale.detach().exp()) == pytest.approx(kept)


def test_a_long_caption_keeps_its_end_token() -> None:
    tokens = ClipTokenizer(8)(["word " * 50, "word"])
    assert tokens.shape == (2, 8)
    assert tokens[0, -1] == tokens[1, 2] == 49407


def test_words_are_told_with_the_columns_of_their_pieces() -> None:
    tokenizer = ClipTokenizer(9)
    told = tokenizer.words(tokenizer(["Ödematous, a hepatoblastoma"])[0])
    assert [word for word, _ in told][:3] == ["ödematous", ",", "a"]
    assert "hepatoblastoma".startswith(told[3][0]), "the end is cut off"
    assert [column for _, columns in told for column in columns] == list(range(1, 8))
    assert max(len(columns) for _, columns in told) > 1
    assert tokenizer.words(tokenizer([""])[0]) == []


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_model_config_builds(path: Path) -> None:
    with torch.device("meta"):  # shapes alone: ViT-B costs seconds to initialise
        values = yaml.safe_load(path.read_text())
        towers = {"image": build_image_tower, "text": build_text_tower}
        geometry = Geometry(**values["geometry"])
        for name, make in towers.items():
            extra = {"size_px": geometry.size_px} if name == "image" else {}
            tower = make(embed_dim=values["embed_dim"], **values[name], **extra)
            assert sum(parameter.numel() for parameter in tower.parameters()) > 1e5


@pytest.mark.parametrize(
    ("tower", "words"), [("resnet18", "timm:NAME"), ("timm:resnot", "resnot"), ("open_clip:X", "open_clip has no")]
)
def test_unknown_towers_are_refused_by_name(tower: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        build_image_tower(tower, 8, 64)


def test_an_unknown_argument_and_a_misfit_are_the_users() -> None:
    with pytest.raises(UserError, match="colour"):
        build_image_tower("timm:test_vit", 8, 64, {"colour": 3})
    with pytest.raises(UserError, match="projection=linear"):
        build_image_tower("timm:test_vit", 8, 64, projection="none")
    with pytest.raises(UserError, match="open_clip:NAME"):
        build_text_tower("timm:test_vit", 8)
    with pytest.raises(UserError, match="Hugging Face"):
        build_text_tower("open_clip:roberta-ViT-B-32", 8)
