"""Synthetic cohorts of pathology: whole slides, captions, a small ontology, labels, and the truth."""

from domains.pathology.phantom.folder import make
from domains.pathology.phantom.whole_slides import make_whole_slides

__all__ = ["make", "make_whole_slides"]
