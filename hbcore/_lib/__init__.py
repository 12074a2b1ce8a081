"""The lowest layer: atomic operations, wide integers, limits, and the answer codes of the core."""
