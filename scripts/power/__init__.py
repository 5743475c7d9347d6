"""A power cut at any moment: recorded work, the disks that may be left of it, and what must be true of each."""
