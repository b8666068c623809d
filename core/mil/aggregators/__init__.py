"""Aggregators: from the tiles of a bag to one vector, one a file; ``conf/aggregator`` has a config for each."""
