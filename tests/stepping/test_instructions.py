"""Killed at any instruction, literally: a process is stepped through each operation one machine instruction at a time.

After every instruction that changes the file, a copy of the file is what a kill at that instruction would leave. Each
such copy is opened anew, and must be valid: the operation has happened or it has not, everything else is as it was, the
audit holds, and every free packet can be claimed. The same is done with the processes that put right what was left:
they are killed at every instruction too.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from marks import full_but
from stepping import can_trace, states

import hbcore
from hbcore import Status

pytestmark = pytest.mark.skipif(not can_trace(), reason="ptrace is not allowed here")


class Books(NamedTuple):
    """What each user of the envelope holds: the packet, and whether it is settled; and whether it is open."""

    users: dict[str, tuple[int, bool]]
    is_open: bool = True


PACKETS, TOTAL = 4, 1000
USERS = ("ann", "bob", "cyd", "dan", "eve")


def users_of(engine: hbcore.Engine) -> dict[str, tuple[int, bool]]:
    rows = {
        bytes(row["user"]): (int(row["packet"]), bool(row["state"] == hbcore.State.SETTLED))
        for row in engine.envelope("e").claims()
    }
    users = {user: rows.pop(engine.user_hash(user)) for user in USERS if engine.user_hash(user) in rows}
    assert not rows, "a claim of nobody's"
    return users


def books_of(engine: hbcore.Engine) -> Books:
    envelope = engine.envelope("e")
    users = users_of(engine)
    for user in USERS:
        found = envelope.find(user)
        assert (found is not None) == (user in users)
        assert found is None or found.packet == users[user][0]
    return Books(users, envelope.claim("nobody").status is not Status.CLOSED)


def check(content: bytes, copy: Path, possible: Callable[[Books], bool]) -> None:
    """A file that a death has left is valid, whether it is audited first or claimed from first."""
    for is_audited in (True, False):
        copy.write_bytes(content)
        with hbcore.Engine(copy) as engine:
            if is_audited:
                engine.audit()
            envelope = engine.envelope("e")
            books = books_of(engine)
            assert possible(books), books
            engine.audit()
            if books.is_open:
                # `books_of` has given a packet to nobody, unless all were taken.
                free = PACKETS - len(books.users)
                answers = [envelope.claim(f"late {i}").status for i in range(PACKETS + 1)]
                late = max(free - 1, 0)
                assert answers == [Status.GRANTED] * late + [Status.SOLD_OUT] * (PACKETS + 1 - late), (books, answers)
            for user, (packet, _) in books.users.items():
                assert envelope.claim(user) == hbcore.Claim(Status.REPEATED, envelope.find(user).amount, packet)
            engine.audit()


def prepared(path: Path, before: list[tuple[str, str]]) -> dict[str, tuple[int, bool]]:
    """Make a file with an envelope, do some operations, and return what each user holds."""
    with hbcore.Engine(path, capacity=1 << 20) as engine:
        envelope = engine.envelope("e", TOTAL, PACKETS)
        for method, user in before:
            getattr(envelope, method)(user)
        return users_of(engine)


def is_step(before: dict[str, tuple[int, bool]], method: str, user: str) -> Callable[[Books], bool]:
    """Whether books are those from before the operation, or from after it."""

    def possible(books: Books) -> bool:
        after = dict(before)
        if method == "claim" and user not in before:
            taken = {packet for packet, _ in before.values()}
            after = {**before, user: (next(iter({p for p, _ in books.users.values()} - taken), -1), False)}
        elif method == "release":
            after.pop(user, None)
        elif method == "settle" and user in before:
            after[user] = (before[user][0], True)
        unchanged = books.users == before and books.is_open
        return unchanged or (books.users == after and (books.is_open or method == "close"))

    return possible


def churn(times: int) -> list[tuple[str, str]]:
    return [("claim", "eve"), ("release", "eve")] * times


# what was before, the operation that dies, and who puts right what it leaves
DEATHS = {
    "the first claim": ([], ("claim", "ann")),
    "a claim": ([("claim", "bob")], ("claim", "ann")),
    "the last claim": ([("claim", "bob"), ("claim", "cyd"), ("claim", "dan")], ("claim", "ann")),
    "a settle": ([("claim", "ann"), ("claim", "bob")], ("settle", "ann")),
    "a release": ([("claim", "ann"), ("claim", "bob")], ("release", "ann")),
    "a release of a full envelope": ([("claim", user) for user in USERS], ("release", "ann")),
    "a release that replaces the index": ([*churn(9), ("claim", "ann"), ("claim", "bob")], ("release", "ann")),
    "a claim that makes the second table": (churn(8), ("claim", "ann")),
    "a close": ([("claim", "ann"), ("claim", "bob"), ("release", "bob")], ("close", "")),
}


@pytest.mark.parametrize("name", DEATHS)
def test_a_kill_at_any_instruction_leaves_a_valid_file(tmp_path: Path, name: str) -> None:
    before, (method, user) = DEATHS[name]
    path, copy = tmp_path / "e.hb", tmp_path / "copy.hb"
    users = prepared(path, before)

    def work(engine: hbcore.Engine) -> Callable[[], object]:
        envelope = engine.envelope("e")
        return envelope.close if method == "close" else lambda: getattr(envelope, method)(user)

    seen = list(states(path, work))
    print(f"{name}: {len(seen)} states of the file")
    assert len(seen) > 1, "the operation changes the file"
    for content in seen:
        check(content, copy, is_step(users, method, user))


@pytest.mark.full
@pytest.mark.parametrize(
    "name",
    [
        "the last claim",
        "a release of a full envelope",
        "a release that replaces the index",
        "a claim that makes the second table",
    ],
)
def test_a_kill_of_who_puts_right_what_a_kill_has_left(tmp_path: Path, name: str) -> None:
    before, (method, user) = DEATHS[name]
    path, copy, second = tmp_path / "e.hb", tmp_path / "copy.hb", tmp_path / "second.hb"
    users = prepared(path, before)

    def dying(engine: hbcore.Engine) -> Callable[[], object]:
        envelope = engine.envelope("e")
        return lambda: getattr(envelope, method)(user)

    def reclaiming(engine: hbcore.Engine) -> Callable[[], object]:
        return engine.envelope("e").close

    possible = is_step(users, method, user)
    count = 0
    for left in list(states(path, dying)):
        copy.write_bytes(left)
        for content in list(states(copy, reclaiming)):
            count += 1
            check(content, second, lambda books: possible(books._replace(is_open=True)))
    print(f"{name}, then a close: {count} states of the file")


BATCH = ("ann", "eve", "cyd", "ann", "dan")


@pytest.mark.parametrize("hold_seconds", [None, 3600])
def test_a_kill_at_any_instruction_of_a_batch_leaves_its_first_claims(tmp_path: Path, hold_seconds: int | None) -> None:
    path, copy = tmp_path / "e.hb", tmp_path / "copy.hb"
    with hbcore.Engine(path, capacity=1 << 20) as engine:
        engine.envelope("e", TOTAL, 8, hold_seconds=hold_seconds).claim("bob")

    def work(engine: hbcore.Engine) -> Callable[[], object]:
        envelope = engine.envelope("e")
        assert envelope.claim("eve")  # the thread knows its place from here on, and the batch has a user who has one
        return lambda: envelope.claim_many(list(BATCH))

    seen = list(states(path, work))
    print(f"a batch, hold_seconds={hold_seconds}: {len(seen)} states of the file")
    left = set()
    for content in seen:
        for is_audited in (True, False):
            copy.write_bytes(content)
            with hbcore.Engine(copy) as engine:
                if is_audited:
                    engine.audit()
                envelope = engine.envelope("e")
                found = {user: claim.packet for user in USERS if (claim := envelope.find(user))}
                new = [user for user in ("ann", "cyd", "dan") if user in found]
                left.add(len(new))
                assert new == ["ann", "cyd", "dan"][: len(new)], "the batch is claimed in order"
                assert {"bob", "eve"} <= set(found)
                assert len(set(found.values())) == len(found)
                rows = envelope.claim_many([*USERS, *(f"late {i}" for i in range(4))])
                assert {
                    user: int(row["packet"]) for user, row in zip(USERS, rows, strict=False)
                }.items() >= found.items()
                assert rows["amount"].sum() == TOTAL
                assert (rows["status"][len(USERS) :] == Status.SOLD_OUT).tolist() == [False] * 3 + [True]
                engine.audit()
    assert left == {0, 1, 2, 3}


def fill(engine: hbcore.Engine) -> None:
    for i in range(10_000):
        engine.envelope(f"x{i}", 200, 30)


@pytest.mark.parametrize("is_filled", [False, True])
def test_a_kill_at_any_instruction_of_making_an_envelope_leaves_it_made_or_not(tmp_path: Path, is_filled: bool) -> None:
    path, copy = tmp_path / "e.hb", tmp_path / "copy.hb"
    prepared(path, [("claim", "ann")])
    seen = list(states(path, lambda engine: lambda: engine.envelope("new", 200, 30)))
    print(f"making an envelope: {len(seen)} states of the file")
    assert len(seen) > 10
    made = 0
    for content in seen:
        copy.write_bytes(content)
        with hbcore.Engine(copy) as engine:
            if is_filled:  # others need space, and take over what is nobody's
                with pytest.raises(hbcore.EngineFullError):
                    fill(engine)
            engine.audit()
            names = [envelope.name for envelope in engine.envelopes() if envelope.name[0] != "x"]
            assert names in (["e"], ["e", "new"])
            made += len(names) - 1
            if len(names) == 2 or not is_filled:
                new = engine.envelope("new", 200, 30)
                assert sum(new.claim(i).amount for i in range(31)) == 200
            else:
                with pytest.raises(hbcore.NotFoundError):
                    engine.envelope("new")
            assert engine.envelope("e").find("ann")
            engine.audit()
    assert 0 < made < len(seen)


# ---- money ----------------------------------------------------------------------------------------------------------

CAMPAIGN, BELOW, IN_ENVELOPE = 5000, 800, 300
MONEY: dict[str, Callable[[hbcore.Engine], Callable[[], object]]] = {
    "reserve": lambda engine: lambda: engine.budget("b").reserve("new", 70),
    "settle in part": lambda engine: lambda: engine.budget("b").settle("held", 20),
    "release": lambda engine: lambda: engine.budget("b").release("held"),
    "top up a sub-budget": lambda engine: lambda: engine.budget("b").budget("below").top_up("more", 90),
    "top up": lambda engine: lambda: engine.budget("b").top_up("more", 90),
    "making a sub-budget": lambda engine: lambda: engine.budget("b").budget("new", 110),
    "making an envelope": lambda engine: lambda: engine.budget("b").envelope("new", 120, 6),
    "close of an envelope": lambda engine: lambda: engine.budget("b").envelope("e").close(),
    "close of a sub-budget": lambda engine: lambda: engine.budget("b").budget("below").close(),
    "release in a closed sub-budget": lambda engine: lambda: engine.budget("b").budget("closed").release("held"),
    "release in a closed envelope": lambda engine: lambda: engine.budget("b").envelope("closed").release(1),
}
"""Each may be asked once more by somebody else, and ends the same."""


def campaign(path: Path) -> None:
    with hbcore.Engine(path, capacity=1 << 20) as engine:
        budget = engine.budget("b", CAMPAIGN)
        budget.reserve("held", 50)
        for name in ("below", "closed"):
            budget.budget(name, BELOW).reserve("held", 60)
        for name in ("e", "closed"):
            budget.envelope(name, IN_ENVELOPE, 6, "equal").claim_many(range(3))
        budget.budget("closed").close()
        budget.envelope("closed").close()


def money_of(engine: hbcore.Engine) -> tuple:
    """Everything that anybody can be told about the money, once what a death has left is put right."""
    engine.audit()
    return (
        {(budget.name, budget.total, budget.stats(), budget.closed) for budget in engine.budgets()},
        {(envelope.name, envelope.stats()) for envelope in engine.envelopes()},
        {(b.name, row["amount"], row["settled"], row["state"]) for b in engine.budgets() for row in b.holds()},
    )


@pytest.mark.parametrize("name", full_but(MONEY, "reserve"))
@pytest.mark.parametrize("is_audited", [True, False], ids=["audited", "asked again"])
def test_a_kill_at_any_instruction_leaves_all_the_money(tmp_path: Path, name: str, is_audited: bool) -> None:
    path, copy = tmp_path / "b.hb", tmp_path / "copy.hb"
    campaign(path)
    with hbcore.Engine(path) as engine:
        before = money_of(engine)
    seen = list(states(path, MONEY[name]))
    print(f"{name}: {len(seen)} states of the file")
    assert len(seen) > 1, "the operation changes the file"
    with hbcore.Engine(path) as engine:
        after = money_of(engine)
    assert after != before
    done = []
    for content in seen:
        copy.write_bytes(content)
        with hbcore.Engine(copy) as engine:
            if is_audited:
                found = money_of(engine)
                assert found in (before, after)
                done.append(found == after)
            # A process that asks again gets what was asked for, once.
            MONEY[name](engine)()
            assert money_of(engine) == after
            budget = engine.budget("b")
            assert budget.reserve("all", budget.stats().available).status is Status.GRANTED
            assert budget.reserve("more", 1).status is Status.INSUFFICIENT
            engine.audit()
    assert done == sorted(done), "what has happened stays so"


def test_a_kill_at_any_instruction_of_reserve_many_leaves_its_first_holds(tmp_path: Path) -> None:
    path, copy = tmp_path / "b.hb", tmp_path / "copy.hb"
    with hbcore.Engine(path, capacity=1 << 20) as engine:
        engine.budget("b", 500).reserve("held", 50)
    keys, amounts = ["new", "held", "newer", "new", "too much", "newest"], [70, 50, 80, 70, 400, 90]
    wanted = {"new": 70, "newer": 80, "newest": 90}
    seen = list(states(path, lambda engine: lambda: engine.budget("b").reserve_many(keys, amounts)))
    print(f"reserve_many: {len(seen)} states of the file")
    left = set()
    for content in seen:
        for is_audited in (True, False):
            copy.write_bytes(content)
            with hbcore.Engine(copy) as engine:
                budget = engine.budget("b")
                if is_audited:
                    engine.audit()
                held = {key: hold.amount for key in wanted if (hold := budget.find(key))}
                assert held.items() <= wanted.items()
                assert list(held) == list(wanted)[: len(held)], "the requests are decided in order"
                assert budget.stats()[1:3] == (450 - sum(held.values()), 50 + sum(held.values()))
                assert budget.find("too much") is None
                left.add(len(held))
                statuses = budget.reserve_many(keys, amounts)["status"].tolist()
                assert (statuses[1], statuses[3], statuses[4]) == (
                    Status.REPEATED,
                    Status.REPEATED,
                    Status.INSUFFICIENT,
                )
                for key, status in zip(wanted, (statuses[0], statuses[2], statuses[5]), strict=True):
                    # A request that the dead have left is fulfilled by whoever asks next, and is a repeated one then.
                    assert status == Status.REPEATED or (key not in held and status == Status.GRANTED)
                assert budget.reserve("all", 210).status is Status.GRANTED
                assert budget.reserve("more", 1).status is Status.INSUFFICIENT
                engine.audit()
    assert left == {0, 1, 2, 3}
