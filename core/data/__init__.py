"""What a model learns from: manifests, splits, audits, samplers, pairs of pictures and captions, batches."""
