"""Verify: whether two sides at one position hold the same, and down to the cell where they do not."""
