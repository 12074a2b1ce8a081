"""The check of a rain from outside: every answer is compared with every other, and with what the seed foretells.

The check uses nothing of the engine that gave the answers, neither its counters nor its audit. Only the amounts that
the seed foretells come from ``hbcore.split``, a pure function that anyone can recompute.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

import hbcore
from hbcore.cli.summary import Check
from hbcore.terms import Terms
from hbcore.types import Status

Spans = Callable[[NDArray[np.int64]], tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]]
"""Returns for rows of the log the process of each, when it was sent, and a time by which it was answered."""


def check_form(terms: Terms, answers: NDArray[np.void]) -> Check:
    """Check each answer on its own: a known status, and a packet and an amount that go with it."""
    status, amount, packet = answers["status"], answers["amount"], answers["packet"]
    with_packet = (status == Status.GRANTED) | (status == Status.REPEATED)
    right = with_packet & (packet >= 0) & (packet < terms.packets) & (amount >= terms.min) & (amount <= terms.max)
    right |= (status == Status.SOLD_OUT) & (packet == -1) & (amount == 0)
    wrong = len(answers) - int(np.count_nonzero(right))
    detail = f"{len(answers):,} requests, {len(answers):,} answers"
    if wrong:
        detail = f"{wrong:,} of {len(answers):,} requests have no answer or one that cannot be"
    return Check("answers", "every request was answered", wrong == 0, detail)


def check_once(key: str, title: str, numbers: NDArray[np.int64], limit: int, holds: str) -> Check:
    """Check that no number below ``limit`` occurs twice."""
    twice = int(np.count_nonzero(np.bincount(numbers, minlength=limit) > 1))
    detail = f"{twice:,} were given twice or more" if twice else f"{len(numbers):,} {holds}"
    return Check(key, title, twice == 0, detail)


def check_repeated(again: NDArray[np.void], answers: NDArray[np.void], first: NDArray[np.int64]) -> Check:
    """Check that users who came again were told the same as by the request that got the packet, in row ``first``."""
    told = answers[first]
    wrong = (first < 0) | (told["packet"] != again["packet"]) | (told["amount"] != again["amount"])
    detail = f"{len(again):,} came again and were told their first packet"
    if wrong.any():
        detail = f"{np.count_nonzero(wrong):,} of {len(again):,} who came again were told something else"
    return Check("repeated", "the same answer again", not wrong.any(), detail)


def check_sold_out(turned_away: NDArray[np.int64], held: NDArray[np.int64], spans: Spans, packets_left: int) -> Check:
    """Check that no user was sent away while a packet was free, or while holding a packet.

    ``turned_away`` are the rows that were told SOLD_OUT; ``held`` is for each the row that granted a packet to the same
    user, or -1. One user may get both answers if the two requests were under way at the same time: a request that asks
    while the other has the last packet in hand, but not yet granted, finds nothing free, and no request waits for
    another.
    """
    title = "sold out means sold out"
    if len(turned_away) and packets_left:
        detail = f"{len(turned_away):,} were told SOLD_OUT while {packets_left:,} packets were free"
        return Check("sold_out", title, False, detail)
    holders = np.flatnonzero(held >= 0)
    process, sent, answered = spans(turned_away[holders])
    other_process, other_sent, other_answered = spans(held[holders])
    one_by_one = (process == other_process) | (other_answered <= sent) | (answered <= other_sent)
    wrong = int(np.count_nonzero(one_by_one))
    if wrong:
        return Check("sold_out", title, False, f"{wrong:,} who hold a packet were told SOLD_OUT")
    detail = f"{len(turned_away):,} turned away, none while a packet was free"
    if len(holders):
        detail += f" ({len(holders):,} while another request of theirs was being granted)"
    return Check("sold_out", title, True, detail)


def cross_check(
    terms: Terms,
    user_count: int,
    remaining: int,
    users: NDArray[np.int64],
    answers: NDArray[np.void],
    spans: Spans,
) -> list[Check]:
    """Check all answers of a rain; ``users`` and ``answers`` have a row for each request.

    Users are numbers below ``user_count``; ``remaining`` is the money that the envelope says it has left.
    """
    form = check_form(terms, answers)
    if not form.holds:
        return [form]  # the other checks index by packet
    granted, repeated, turned_away = (
        np.flatnonzero(answers["status"] == status) for status in (Status.GRANTED, Status.REPEATED, Status.SOLD_OUT)
    )
    holders, given = users[granted], answers[granted]
    row_of_user = np.full(user_count, -1, np.int64)
    row_of_user[holders] = granted
    paid = int(given["amount"].sum())
    packets_left = terms.packets - len(granted)
    right_sum = paid + remaining == terms.total and (remaining == 0) == (packets_left == 0)
    sums = f"given {paid:,} + left {remaining:,} {'=' if right_sum else 'is not'} total {terms.total:,}"
    foretold = hbcore.split(
        terms.total, terms.packets, terms.law, terms.min, terms.max, terms.concentration, terms.seed
    )
    differing = int(np.count_nonzero(foretold[given["packet"]] != given["amount"]))
    found = f"{differing:,} amounts differ" if differing else f"{len(granted):,} amounts recomputed, each the same"
    return [
        form,
        check_once("packets", "every packet once", given["packet"], terms.packets, "packets given, none twice"),
        check_once("users", "every user once", holders, user_count, "users hold a packet, none two"),
        check_repeated(answers[repeated], answers, row_of_user[users[repeated]]),
        check_sold_out(turned_away, row_of_user[users[turned_away]], spans, packets_left),
        Check("sum", "sum equals total", right_sum, sums),
        Check("seed", "amounts as the seed foretells", differing == 0, found),
    ]
