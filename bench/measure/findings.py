"""What a table of bars is made of: findings, each with what was measured, what is asked for, and whether it is met."""

from typing import NamedTuple

from bench.measure.turns import Times

NANOSECONDS = "{:,.1f} ns"
TIMES = "{:,.2f} times"


class Finding(NamedTuple):
    """One line of a table: what was measured, how much it was, what is asked for, whether it is met, and what of."""

    what: str
    measured: str
    bar: str = ""
    met: bool | None = None  # None where nothing is asked for
    figures: str = ""


def at_most(what: str, value: float, bar: float, form: str, figures: str = "") -> Finding:
    """``form`` has one place for a number, as in ``"{:,.0f} ns"``."""
    return Finding(what, form.format(value), f"at most {bar:,.9g}{form.partition('}')[2]}", value <= bar, figures)


def at_least(what: str, value: float, bar: float, form: str, figures: str = "") -> Finding:
    return Finding(what, form.format(value), f"at least {bar:,.9g}{form.partition('}')[2]}", value >= bar, figures)


def beside(times: Times, name: str, other: str) -> str:
    return f"{times.figure(name):,.1f} and {times.figure(other):,.1f} ns"


def slower(what: str, times: Times, name: str, other: str, bar: float) -> Finding:
    """The bar is how many times as long as the other it may take."""
    return at_most(what, times.ratio(name, other), bar, TIMES, beside(times, name, other))


def faster(what: str, times: Times, name: str, other: str, bar: float) -> Finding:
    """The bar is how many times as fast as the other it must be."""
    return at_least(what, times.ratio(other, name), bar, TIMES, beside(times, name, other))
