"""Rasters of any domain: the reader contract, tile grids in physical units, coverage, patches, stitching."""
