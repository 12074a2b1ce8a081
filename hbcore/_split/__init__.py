"""The keyed stream and the laws by which a sum is split: pure functions of terms and seed."""
