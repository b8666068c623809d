"""Outputs of pathology in the formats of its viewers."""
