"""A synthetic cohort of pathology: whole slides, captions, a small ontology, and the truth."""

from domains.pathology.phantom.folder import make

__all__ = ["make"]
