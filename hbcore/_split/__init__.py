"""How a sum is split: the keyed stream and the laws, pure functions of terms and seed."""
