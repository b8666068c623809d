"""Augmentation that keeps what a picture means: symmetries of the square and a jitter of its colours."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

LUMA = np.array([[0.299, 0.587, 0.114]])
YIQ = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
RGB = np.linalg.inv(YIQ)
DRAWS = 6  # random numbers an image takes


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

    def __call__(self, images: np.ndarray, draws: np.ndarray) -> np.ndarray:
        """Every image by its own draws.

        Args:
            images: uint8 [b, 3, s, s].
            draws: float [b, 6] in [0, 1): turns, mirror, brightness, contrast, saturation, hue.

        Returns:
            uint8 [b, 3, s, s], a new array.
        """
        turned = np.empty(images.shape, np.uint8)
        for image, draw, out in zip(images, draws, turned, strict=True):
            if self.rotations:
                image = np.rot90(image, int(4 * draw[0]), axes=(1, 2))
            out[:] = image[:, :, ::-1] if self.flips and draw[1] < 0.5 else image
        if not (self.brightness or self.contrast or self.saturation or self.hue):
            return turned
        ranges = np.array([self.brightness, self.contrast, self.saturation, 2 * math.pi * self.hue])
        bright, contrast, saturation, angle = ((2 * draws[:, 2:] - 1) * ranges + (1, 1, 1, 0)).T[..., None, None]
        matrix = _hue(angle) @ (saturation * np.eye(3) + (1 - saturation) * LUMA)  # [b, 3, 3]
        flat = turned.reshape(len(images), 3, -1).astype(np.float32)
        grey = LUMA @ flat.mean(axis=2, keepdims=True) * bright  # [b, 1, 1]
        values = (matrix * (bright * contrast)).astype(np.float32) @ flat
        values += ((1 - contrast) * grey).astype(np.float32)
        jittered: np.ndarray = np.clip(np.rint(values, out=values), 0, 255, out=values).astype(np.uint8)
        return jittered.reshape(images.shape)


def _hue(angle: np.ndarray) -> np.ndarray:
    """Rotation of the chroma plane by each angle, [b, 1, 1] -> [b, 3, 3]; grey stays grey."""
    turn = np.zeros((len(angle), 3, 3))
    turn[:, 0, 0] = 1
    turn[:, 1:, 1:] = np.cos(angle) * np.eye(2) + np.sin(angle) * np.array([[0, -1], [1, 0]])
    turned: np.ndarray = RGB @ turn @ YIQ
    return turned
