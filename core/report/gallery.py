"""The best and worst retrievals of a run, kept small enough to sit inside its report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from core.files import atomic_write

_FILE = Path("details") / "gallery.npz"


@dataclass(frozen=True)
class Shown:
    """One query image with what was retrieved for it."""

    image: npt.NDArray[np.uint8]  # [h, w, 3]
    id: str
    caption: str
    rank: int  # place of the first right text, 1 is best
    retrieved: str  # the text that came first


def save_gallery(
    folder: str | Path,
    images: Callable[[int], npt.NDArray[np.uint8]],
    ids: Sequence[str],
    captions: Sequence[str],
    ranks: npt.ArrayLike,
    retrieved: Sequence[str] | None = None,
    count: int = 6,
    size_px: int = 160,
) -> None:
    """Keeps thumbnails of the ``count`` best and worst retrievals in ``details/gallery.npz``.

    Among equal ranks images with a caption that was not shown yet come first, so that the best six are not six times
    the same class. Do not call it for restricted data.

    Args:
        images: gives the n-th query image, uint8 [3, H, W]; only the shown ones are asked for.
        ids: [N].
        captions: [N] the own caption.
        ranks: [N] rank of the first right text, 1 is best.
        retrieved: [N] the text retrieved first.
    """
    order = np.asarray(ranks, dtype=np.int64)
    first = list(retrieved) if retrieved is not None else [""] * len(ids)
    best = _pick(order, captions, count)
    rest = [i for i in range(len(order)) if i not in set(best)]
    worst = [rest[i] for i in _pick(-order[rest], [captions[i] for i in rest], count)]
    rows = best + worst
    with atomic_write(Path(folder) / _FILE) as path, open(path, "wb") as file:
        np.savez_compressed(
            file,
            images=np.stack([_thumbnail(images(i), size_px) for i in rows])
            if rows
            else np.zeros((0, size_px, size_px, 3), np.uint8),
            ids=np.array([ids[i] for i in rows], dtype=np.str_),
            captions=np.array([captions[i] for i in rows], dtype=np.str_),
            ranks=order[rows],
            retrieved=np.array([first[i] for i in rows], dtype=np.str_),
            best=np.int64(len(best)),
        )


def load_gallery(folder: str | Path) -> tuple[list[Shown], list[Shown]]:
    """Best and worst retrievals of a run; two empty lists when it kept none."""
    path = Path(folder) / _FILE
    if not path.is_file():
        return [], []
    with np.load(path, allow_pickle=False) as kept:
        columns = (kept[name] for name in ("images", "ids", "captions", "ranks", "retrieved"))
        rows = [Shown(i, str(n), str(c), int(r), str(t)) for i, n, c, r, t in zip(*columns, strict=True)]
        best = int(kept["best"])
    return rows[:best], rows[best:]


def _pick(ranks: npt.NDArray[np.int64], captions: Sequence[str], count: int) -> list[int]:
    """Indices of the smallest ranks, different captions first among equals."""
    seen: dict[str, int] = {}
    again = []
    for caption in captions:  # how often the caption came before
        again.append(seen.get(caption, 0))
        seen[caption] = again[-1] + 1
    return [int(i) for i in np.lexsort((np.asarray(again), ranks))[:count]] if len(ranks) else []


def _thumbnail(image: npt.NDArray[np.uint8], size_px: int) -> npt.NDArray[np.uint8]:
    from PIL import Image

    picture = Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)))
    return np.asarray(picture.resize((size_px, size_px), Image.Resampling.BICUBIC))
