"""The way from a user or a key to a keyed 128-bit hash, one by one and in batches."""
