"""Readers of pathology."""

from domains.pathology.readers.reader import SlideReader

__all__ = ["SlideReader"]
