"""The laws by which a sum is split: pure functions from terms and seed to amounts."""

from hbcore._split.law import checked_terms, packet_amount, split

__all__ = ["checked_terms", "packet_amount", "split"]
