"""A vector index over embeddings of a whole cohort."""
