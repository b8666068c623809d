"""Augmentation that keeps what a picture means: symmetries of the square and a jitter of its colours."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

LUMA = np.array([0.299, 0.587, 0.114], np.float32)
YIQ = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]], np.float32)
RGB = np.linalg.inv(YIQ).astype(np.float32)


@dataclass(frozen=True)
class Augment:
    """What may change; every strength 0 and both switches off change nothing.

    The colour jitter is one affine map of RGB: brightness, contrast about the picture's mean, saturation towards grey
    and a rotation of hue in YIQ, each drawn uniformly from its range.
    """

    flips: bool = True  # mirror left-right
    rotations: bool = True  # quarter turns; with flips: the eight symmetries of tissue that has no up
    brightness: float = 0.1  # factor in 1 +- this
    contrast: float = 0.1  # factor in 1 +- this
    saturation: float = 0.1  # factor in 1 +- this
    hue: float = 0.02  # turn in +- this (1 is a full circle)

    def __call__(self, image: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Args: image, uint8 [3, s, s]; a generator of this sample alone. Returns: uint8 [3, s, s], a new array."""
        turns, mirrored = int(random.integers(4)), bool(random.integers(2))
        draws = random.uniform(-1, 1, 4)
        if self.rotations:
            image = np.rot90(image, turns, axes=(1, 2))
        if self.flips and mirrored:
            image = image[:, :, ::-1]
        if not (self.brightness or self.contrast or self.saturation or self.hue):
            return np.ascontiguousarray(image)
        bright, contrast, saturation = 1 + draws[:3] * (self.brightness, self.contrast, self.saturation)
        angle = 2 * math.pi * draws[3] * self.hue
        matrix = _hue(angle) @ (saturation * np.eye(3, dtype=np.float32) + (1 - saturation) * LUMA[None, :])
        flat = image.reshape(3, -1).astype(np.float32)
        grey = float(LUMA @ flat.mean(axis=1)) * bright
        matrix = (matrix * (bright * contrast)).astype(np.float32)
        values = matrix @ flat + np.float32((1 - contrast) * grey)
        jittered: np.ndarray = np.clip(np.rint(values), 0, 255).astype(np.uint8).reshape(image.shape)
        return jittered


def _hue(angle: float) -> np.ndarray:
    """Rotation of the chroma plane, [3, 3]; grey stays grey."""
    cos, sin = math.cos(angle), math.sin(angle)
    turn = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]], np.float32)
    return RGB @ turn @ YIQ
