"""What everything stands on: atomic operations, wide integers, and the answer codes of the core."""
