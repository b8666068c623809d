"""Pixels to network input: the one place where uint8 becomes float."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from core.types import Geometry, UserError


class Normalise(nn.Module):
    """uint8 [b, 3, H, W] -> float32, with the geometry's mean and standard deviation taken out.

    Raises:
        UserError: the images have another size than the geometry says.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, geometry: Geometry) -> None:
        super().__init__()
        self.size_px = geometry.size_px
        # not in checkpoints: they follow from the geometry
        self.register_buffer("mean", 255 * torch.tensor(geometry.mean)[:, None, None], persistent=False)
        self.register_buffer("std", 255 * torch.tensor(geometry.std)[:, None, None], persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        if images.dtype != torch.uint8:
            raise TypeError(f"images are {images.dtype}; models take uint8 and normalise themselves")
        height, width = images.shape[-2:]
        if (height, width) != (self.size_px, self.size_px):
            raise UserError(f"images are {width} x {height} px and the model takes {self.size_px} x {self.size_px}",
                            "model.geometry.size_px", "cut the images to the model's geometry")  # fmt: skip
        return (images.float() - self.mean) / self.std
