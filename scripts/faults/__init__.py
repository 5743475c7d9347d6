"""What scripts/prove_faults.py does: pieces of work on the disk, and a fault at each of their steps."""
