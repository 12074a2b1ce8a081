"""Parameters of which the quick run takes a few, and the full run all."""

from collections.abc import Iterable
from typing import Any

import pytest


def full_but(values: Iterable[Any], *quick: Any) -> list[Any]:
    """Mark all these parameters as full but those that the quick run takes as well."""
    values = list(values)
    assert all(value in values for value in quick), quick
    return [value if value in quick else pytest.param(value, marks=pytest.mark.full) for value in values]
