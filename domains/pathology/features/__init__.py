"""Features that other tools made, read as they lie: CLAM, TRIDENT, STAMP, slide2vec."""
