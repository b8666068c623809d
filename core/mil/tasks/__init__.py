"""What can be learned of a bag: one task a file, each an aggregator with a linear head and a loss."""
