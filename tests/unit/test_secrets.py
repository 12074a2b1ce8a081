"""Seeds and keys are secrets: with a seed every amount can be computed, with a key every user can be named.

``terms.seed`` gives a seed when it is asked for. No repr, no str, no error and no output of the command line about an
envelope that may have claims to come shows one, as text, as bytes, in hexadecimal digits or as a list of numbers.
"""

import base64
import contextlib
import copy
import io
import logging
import pickle
import pprint
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.pretty import Pretty

import hbcore
import hbcore._ops.batch_request
import hbcore.law
import hbcore.reference
from hbcore.cli import main
from hbcore.terms import Terms, check_same_terms, envelope_terms

SEED = b"This-Seed-Tells-Every-Amount-Now"
OTHER = b"That-Seed-Is-Another-One-Of-Them"
KEY = b"This-Key-Names-Each-User-Of-Ours"
SECRETS = (SEED, OTHER, KEY)


def forms(secret: bytes) -> Iterator[str]:
    """Everything a secret could be recognised by: as a whole, and its first half."""
    for part in (secret, secret[:16]):
        yield part.decode("latin-1")
        yield repr(part)[2:-1]
        yield part.hex()
        yield part.hex().upper()
        yield part.hex(" ")
        yield str(list(part))[1:-1]
        yield " ".join(map(str, part))
        yield base64.b64encode(part).decode().rstrip("=")[:20]


def check(text: str, *secrets: bytes) -> None:
    """Fail if a text shows a secret."""
    for secret in secrets or SECRETS:
        for form in forms(secret):
            assert form not in text, f"a secret is shown: {text}"


def test_the_check_sees_a_secret() -> None:
    for shown in (f"x{SEED!r}", SEED.hex(), repr(bytearray(SEED)), repr(np.frombuffer(SEED, "u1").tolist()), str(KEY)):
        with pytest.raises(AssertionError, match="a secret is shown"):
            check(shown)


def texts(value: object) -> Iterator[str]:
    """Every way in which a value becomes text."""
    yield repr(value)
    yield str(value)
    yield f"{value}"
    yield f"{value!r:>20}"
    yield "%s %r" % (value, value)  # noqa: UP031
    yield repr([value, (value,), {"terms": value}])
    yield pprint.pformat(value, width=20)
    out = io.StringIO()
    Console(file=out, width=40).print(Pretty(value, expand_all=True))
    yield out.getvalue()
    record = logging.LogRecord("hbcore", logging.INFO, "", 0, "made %s", (value,), None)
    yield logging.Formatter().format(record)


@given(seed=st.binary(min_size=32, max_size=32))
def test_terms_hide_any_seed_and_keep_it(seed: bytes) -> None:
    terms = envelope_terms(1000, 10, seed=seed)
    for text in texts(terms):
        check(text, seed)
        assert "<hidden>" in "".join(text.split())
    assert terms.seed == terms._asdict()["seed"] == seed
    for same in (pickle.loads(pickle.dumps(terms)), copy.deepcopy(terms), Terms._make(terms), Terms(*terms)):
        assert type(same) is Terms
        assert same == terms
        assert hash(same) == hash(terms)
    other = terms._replace(total=2000)
    assert (type(other), other.seed, other != terms) == (Terms, seed, True)
    assert "seed=None" in repr(terms._replace(seed=None))


def test_the_repr_of_terms_shows_all_else() -> None:
    assert repr(envelope_terms(1000, 10, "equal", seed=SEED, per_user=2)) == (
        "Terms(total=1000, packets=10, law='equal', min=1, max=1000, concentration=3, seed=<hidden>, expires_at_ms=0, "
        "per_user=2, hold_ms=0, max_packets=10)"
    )


def values(thing: object, depth: int = 2) -> Iterator[object]:
    """A thing and what its public attributes give, but for seeds that are asked for by their name."""
    yield thing
    for name in dir(thing) if depth else ():
        if not name.startswith("_") and name not in ("seed", "seeds"):
            with contextlib.suppress(hbcore.HbcoreError, ValueError):  # NumPy's, of an array that has no buffer
                value = getattr(thing, name)
                if not callable(value):
                    yield from values(value, depth - 1)


@pytest.mark.full
def test_nothing_that_is_given_back_shows_a_secret(impl: ModuleType) -> None:
    engine = impl.Engine(key=KEY)
    budget = engine.budget("gala", 10_000)
    envelope = budget.envelope("20:00", 1000, 10, seed=SEED, max_packets=20)
    things = [
        *(engine, budget, envelope, envelope.claim("a"), envelope.find("a"), envelope.settle("a"), envelope.claims()),
        *(envelope.stats(), envelope.top_up("more", 100, 5, seed=OTHER), envelope.claim_many(["b", "c"])),
        *(budget.reserve("k", 5), budget.holds(), budget.stats(), engine.audit(), engine.envelopes(), engine.budgets()),
        *(budget.create_many(["x", "y"], 100, 5, seeds=[SEED, OTHER]), engine.user_hash("a"), envelope.terms),
        *(hbcore.law.checked_terms(100, 5, "equal", 1, None, 3, SEED), impl.split(1000, 10, seed=SEED)),
        hbcore._ops.batch_request.checked_batch(["x"], 100, 5, "equal", 1, None, 3, [SEED], None, 1, None, None),
    ]
    if impl is hbcore:
        things.append(engine.info())
    for thing in things:
        for value in values(thing):
            for text in texts(value):
                check(text)


def errors(call: Callable[[], object]) -> Iterator[str]:
    """The texts of what a call raises, if it does."""
    try:
        call()
    except Exception as error:
        yield from (str(error), repr(error), repr(error.args))
        yield "".join(traceback.format_exception_only(error))


SHAPES: list[Callable[[bytes], object]] = [
    bytes,
    bytearray,
    memoryview,
    lambda secret: secret.decode(),
    bytes.hex,
    lambda secret: secret[:31],
    lambda secret: [secret],
    lambda secret: (secret, secret),
    lambda secret: {"seed": secret},
    list,
    lambda secret: np.frombuffer(secret, "u1"),
    np.bytes_,
    np.void,
]


MANY = {"names": ["a", "b"], "totals": 100, "packets": 10}
ONE = {"name": "a", "total": 100, "packets": 10}
OPTIONAL = ("law", "min", "max", "concentration", "expires_at", "per_user", "hold_seconds", "max_packets")


def makings(maker: Any, shape: Any) -> list[Callable[[], object]]:
    """Calls of an engine or a budget that make something, each with a wrong argument."""
    calls: list[Callable[[], object]] = [lambda: maker.budget("b", shape)]
    calls += [partial(maker.envelope, **{**ONE, name: shape}) for name in (*ONE, *OPTIONAL) if name != "name"]
    calls += [partial(maker.create_many, **{**MANY, name: shape}) for name in (*MANY, *OPTIONAL) if name != "names"]
    if not isinstance(shape, str):  # a str is a name, and every answer tells the name
        calls += [
            lambda: maker.envelope(shape, 100, 10),
            lambda: maker.create_many(shape, 100, 10),
            lambda: maker.create_many([shape], 100, 10),
            lambda: maker.budget(shape, 100),
        ]
    return calls


def uses(impl: ModuleType, engine: Any, shape: Any) -> list[Callable[[], object]]:
    """All other calls, each with a wrong argument."""
    budget = engine.budget("gala")
    envelope = budget.envelope("20:00")
    packet_amount = hbcore.law.packet_amount if impl is hbcore else impl.packet_amount
    calls: list[Callable[[], object]] = [
        lambda: impl.Engine(capacity=shape),
        lambda: impl.Engine(mode=shape),
        lambda: impl.split(shape, 10),
        lambda: impl.split(100, shape),
        lambda: impl.split(100, 10, shape),
        lambda: packet_amount(shape, 100, 10),
        lambda: envelope.claim("a", shape),
        lambda: envelope.top_up("k", shape, 5),
        lambda: envelope.top_up("k", 100, shape),
        lambda: budget.reserve("k", shape),
        lambda: budget.reserve_many(["k"], shape),
        lambda: budget.settle("k", shape),
        lambda: budget.top_up("k", shape),
        lambda: engine.user_hash("a", shape),
    ]
    if not (isinstance(shape, bytes) and len(shape) == 32):  # those are a seed and a key
        calls += [
            lambda: engine.envelope("a", 100, 10, seed=shape),
            lambda: engine.create_many(["a", "b"], 100, 10, seeds=shape),
            lambda: engine.create_many(["a"], 100, 10, seeds=[shape]),
            lambda: envelope.top_up("k", 100, 5, seed=shape),
            lambda: impl.split(100, 10, seed=shape),
            lambda: impl.Engine(key=shape),
        ]
    if not isinstance(shape, (str, bytes)):  # those are users and keys of holds
        calls += [
            lambda: envelope.claim(shape),
            lambda: envelope.claim_many([shape]),
            lambda: budget.reserve(shape, 5),
            lambda: engine.user_hash(shape),
        ]
    return calls


@pytest.mark.parametrize("secret", [SEED, KEY], ids=["seed", "key"])
def test_no_argument_in_the_wrong_place_is_shown(impl: ModuleType, secret: bytes) -> None:
    """A secret in the place of another argument is refused there, and no refusal repeats it."""
    engine = impl.Engine(key=KEY)
    budget = engine.budget("gala", 10_000)
    budget.envelope("20:00", 1000, 10, seed=SEED, max_packets=20)
    refused = 0
    for shape in (make(secret) for make in SHAPES):
        for call in (*makings(engine, shape), *makings(budget, shape), *uses(impl, engine, shape)):
            found = list(errors(call))
            refused += bool(found)
            for text in found:
                check(text)
    assert refused > 40 * len(SHAPES)


def test_no_conflict_shows_a_seed(impl: ModuleType) -> None:
    engine = impl.Engine(key=KEY)
    envelope = engine.envelope("20:00", 1000, 10, seed=SEED, max_packets=20)
    envelope.top_up("more", 100, 5, seed=SEED)
    for call, word in (
        (lambda: engine.envelope("20:00", 1000, 10, seed=OTHER, max_packets=20), "another seed"),
        (lambda: engine.envelope("20:00", 1000, 10, seed=OTHER, max_packets=21), "another seed"),
        (lambda: engine.envelope("20:00", 1000, 11, seed=SEED, max_packets=20), "packets"),
        (
            lambda: engine.envelope("20:00", 1000, 10, "equal", seed=SEED, max_packets=20),
            "law = double_mean, not equal",
        ),
        (lambda: envelope.top_up("more", 100, 5, seed=OTHER), "another seed"),
        (lambda: envelope.top_up("more", 101, 5, seed=OTHER), "100 in 5"),
        (lambda: check_same_terms("20:00", envelope.terms, envelope.terms._replace(seed=OTHER)), "another seed"),
        (lambda: engine.envelope("20:00", seed=SEED), "seed"),
    ):
        found = list(errors(call))
        assert found
        assert word in found[0]
        for text in found:
            check(text)


def test_the_command_line_shows_no_seed_of_a_file(
    path: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with hbcore.Engine(path) as engine:
        engine.budget("gala", 100_000).envelope("20:00", 1000, 10, seed=SEED).claim("a")
    log = tmp_path / "log.txt"
    log.write_text("a\nb\nc\n")
    of_file, seed = ["--engine", str(path), "--name", "21:00"], ["--seed", SEED.hex()]
    small = ["--packets", "9", "--processes", "1", *seed]
    for command in (
        *(["inspect", str(path), *more] for more in ([], ["--json"], ["--name", "gala/20:00"])),
        *(["audit", str(path), *more] for more in ([], ["--json"])),
        ["replay", str(log), *of_file, "--packets", "5", "--total", "500", *seed, "--out", str(tmp_path / "a.csv")],
        ["rain", *small, "--file", str(tmp_path / "one.hb")],
        ["rain", *small, "--file", str(tmp_path / "two.hb"), "--json"],
    ):
        assert main(command) == 0, command
        out, err = capfd.readouterr()
        assert out
        check(out + err)
    for bad in (SEED.hex()[:-1], SEED.hex() + "0", "x" + SEED.hex()[1:]):
        assert main(["rain", "--packets", "9", "--seed", bad]) == 2
        check("".join(capfd.readouterr()))


def test_a_file_is_opened_with_a_wrong_key_and_neither_key_is_shown(path: Path) -> None:
    with hbcore.Engine(path, key=KEY) as engine:
        assert KEY not in path.read_bytes()
        check(repr(engine))
    found = list(errors(lambda: hbcore.Engine(path, key=OTHER)))
    found += errors(lambda: hbcore.Engine(path))
    for text in found:
        check(text)
