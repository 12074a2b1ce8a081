"""The use of hostile files: the whole API on one file, and every answer compared with the model.

This belongs to ``hostile.py``, which says what is accepted.
"""

import collections
import itertools
import os
import random
import re
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from hostile_files import BOOT, GRANTED, NEW, SETTLED, STRANGERS, Books, World, untold, went_back

import hbcore
from hbcore import Status

DISK_LIMIT = 80 << 20  # bytes on disk of one file: a growth is 64 MiB at most


class Damage(NamedTuple):
    """What is done to a file: bytes written at offsets, and a new size, or -1."""

    kind: str
    place: str
    writes: list[tuple[int, bytes]]
    size: int = -1

    def hits(self, place: range) -> bool:
        return any(at < place.stop and at + len(data) > place.start for at, data in self.writes)

    def apply(self, sound: bytes) -> bytes:
        content = bytearray(sound)
        for at, data in self.writes:
            content[at : at + len(data)] = data
        return bytes(content if self.size < 0 else content[: self.size])

    def apply_to_open(self, fd: int) -> None:
        for at, data in self.writes:
            os.pwrite(fd, data, at)
        if self.size >= 0:
            os.ftruncate(fd, self.size)


DAMAGE_ERRORS = (hbcore.CorruptFileError, hbcore.IncompatibleFileError, hbcore.AuditError, hbcore.EngineFullError)
ANSWERS = (hbcore.NotFoundError, hbcore.ConflictError)  # right or wrong like any other answer


class Failed(Exception):
    """What never may be: it ends the examination."""


class Examination:
    """One file used through the whole API; every answer is compared with the model."""

    def __init__(self, world: World, path: Path, damage: Damage, chance: random.Random) -> None:
        self.world, self.path, self.chance = world, path, chance
        self.everything = [books.copy() for books in world.books]
        hit = [books for books in self.everything if damage.hits(world.layout.extents[books.name])]
        others = [books for books in self.everything if books not in hit]
        self.used = chance.sample(hit, min(len(hit), 8)) + chance.sample(others, min(len(others), 4))
        self.errors: list[str] = []
        self.wrongs: list[str] = []
        self.named: list[str] = []  # what an audit has said

    def ask(self, call: Callable[..., Any], *arguments: Any, **more: Any) -> Any:
        """Return the answer, which may be an exception of ANSWERS, or ``self`` after an error that says "damaged"."""
        try:
            return call(*arguments, **more)
        except ANSWERS as error:
            return error
        except DAMAGE_ERRORS as error:
            self.errors.append(f"{getattr(call, '__name__', call)}: {error}")
            return self

    def wrong(self, what: str) -> None:
        """Note a wrong answer; the audit, at once, must say why, because later answers may heal what it could see."""
        self.wrongs.append(what)
        if len(self.wrongs) == 1:
            self.audit(self.engine)

    def audit(self, engine: hbcore.Engine) -> Any:
        try:
            return engine.audit()
        except (hbcore.AuditError, hbcore.CorruptFileError) as error:
            self.named.append(str(error))
            return None

    def open(self, **more: Any) -> bool:
        """Open the file; whether it could be."""
        try:
            self.engine = hbcore.Engine(self.path, key=self.world.key, **more)
        except (*DAMAGE_ERRORS, ValueError) as error:
            if isinstance(error, ValueError) and not re.search(r"\bkey\b|capacity", str(error)):
                raise
            self.errors.append(f"Engine: {error}")
            return False
        return True

    def steps(self) -> Iterator[None]:
        """Use the open engine, with a pause wherever damage may be done while it is open."""
        chance = self.chance
        if chance.random() < 0.3:
            self.audit(self.engine)
        self.list_envelopes()
        self.ask(self.engine.info)
        yield
        opened = [(books, envelope) for books in self.used if (envelope := self.get(books)) is not None]
        for use in (self.look, self.work, self.look, self.drain, self.close, self.look):
            for books, envelope in opened:
                if use == self.look or chance.random() < 0.6:
                    use(books, envelope)
                    yield
            if use == self.work:
                self.make_new()
                yield
        if (report := self.audit(self.engine)) is not None:
            self.compare_report(report)

    def list_envelopes(self) -> None:
        envelopes = self.ask(self.engine.envelopes)
        if envelopes is not self:
            names = collections.Counter(envelope.name for envelope in envelopes)
            expected = collections.Counter(books.name for books in self.everything)
            if names != expected:
                missing, more = sorted((expected - names).elements()), sorted((names - expected).elements())
                self.wrong(f"envelopes() lacks {missing[:3]} and has {more[:3]}")

    def get(self, books: Books) -> Any:
        """Get an envelope by name alone or with its terms; a wrong one is used all the same."""
        terms = books.terms if self.chance.random() < 0.5 else {}
        envelope = self.ask(self.engine.envelope, books.name, **terms)
        if envelope is self:
            books.is_exact = False
            return None
        if isinstance(envelope, ANSWERS):
            self.wrong(f"envelope({books.name!r}): {envelope}")
            return None
        if envelope.terms != books.checked:
            self.wrong(f"{books.name!r} has the terms {envelope.terms}")
        return envelope

    def make_new(self) -> None:
        envelope = self.ask(self.engine.envelope, NEW.name, **NEW.terms)
        if isinstance(envelope, ANSWERS):
            self.wrong(f"envelope({NEW.name!r}): {envelope}")
        elif envelope is not self:
            books = NEW.copy()
            self.everything.append(books)
            self.claim_many(books, envelope, range(8))
            self.claim_many(books, envelope, range(5, 15))

    def check_amount(self, books: Books, packet: int, amount: int) -> None:
        if packet < 0 or packet >= books.packets or books.amounts[packet] != amount:
            raise Failed(f"amount: {books.name!r} gave packet {packet} with {amount}")

    def judge(self, books: Books, user: Any, status: int, amount: int, packet: int) -> None:
        """Compare the answer to a claim with the model, and bring the model on."""
        if packet != -1 or amount != 0 or status <= Status.REPEATED:
            self.check_amount(books, packet, amount)
        if user in books.unknown:
            return
        if user in books.held:
            is_right = status == Status.REPEATED and packet == books.held[user]
        elif books.is_closed:
            is_right = status == Status.CLOSED
        elif status == Status.GRANTED and self.may_be_free(books, packet):
            is_right = True
            books.free.discard(packet)
            books.held[user] = packet
        else:
            is_right = status == Status.SOLD_OUT and not (books.free and books.is_exact)
        if not is_right:
            self.doubt(books, user)
            self.wrong(f"{books.name!r}: claim({user!r}) is {Status(status).name}, packet {packet}")

    def may_be_free(self, books: Books, packet: int) -> bool:
        """Whether the packet is free, or was of a user of whom the model does not know what they have."""
        return packet in books.free or (not books.is_exact and packet not in books.held.values())

    def doubt(self, books: Books, user: Any) -> None:
        """From here on the model does not know what the user has."""
        books.is_exact = False
        books.unknown.add(user)
        books.held.pop(user, None)
        books.settled.discard(user)

    def claim_many(self, books: Books, envelope: hbcore.Envelope, users: Any) -> None:
        users = list(users)
        rows = self.ask(envelope.claim_many, np.array(users) if isinstance(users[0], int) else users)
        if rows is self:
            for user in users:
                if user not in books.held:
                    self.doubt(books, user)
            return
        for user, row in zip(users, rows.tolist(), strict=True):
            self.judge(books, user, *row)

    def some_users(self, books: Books, count: int) -> list[Any]:
        held = list(books.held)
        strangers = self.chance.sample(STRANGERS, 2)
        return self.chance.sample(held, min(len(held), count)) + strangers

    def look(self, books: Books, envelope: hbcore.Envelope) -> None:
        """Call find, claims and stats."""
        for user in self.some_users(books, 6):
            self.compare_claim(books, user, "find", self.ask(envelope.find, user))
        rows = self.ask(envelope.claims)
        if rows is not self:
            self.compare_claims(books, rows)
        stats = self.ask(envelope.stats)
        if stats is self:
            return
        present = (*stats[:4], *stats.amounts)
        if min(present) < 0 or stats.amounts.granted + stats.amounts.settled > books.total:
            raise Failed(f"amount: {books.name!r} has {stats}")
        if books.is_exact and present != books.stats():
            self.wrong(f"{books.name!r}: {stats}, not {books.stats()}")

    def compare_claim(self, books: Books, user: Any, call: str, claim: Any) -> None:
        """Compare what find, settle or release say with the model: the user's packet, or None."""
        if claim is self:
            if call != "find":
                self.doubt(books, user)
            return
        if isinstance(claim, hbcore.Claim):
            self.check_amount(books, claim.packet, claim.amount)
        if user not in books.unknown and (claim.packet if claim else None) != books.held.get(user):
            self.doubt(books, user)
            self.wrong(f"{books.name!r}: {call}({user!r}) is {claim}")

    def compare_claims(self, books: Books, rows: np.ndarray) -> None:
        seen = {}
        for packet, user, amount, state, _ in rows.tolist():
            self.check_amount(books, packet, amount)
            seen[packet] = (user, state)
        if len(seen) != len(rows):
            self.wrong(f"{books.name!r}: claims() has a packet twice")
        if books.is_exact:
            hashes = self.world.hashes
            expected = {p: (hashes[u], SETTLED if u in books.settled else GRANTED) for u, p in books.held.items()}
            if seen != expected:
                packets = [packet for packet in {*seen, *expected} if seen.get(packet) != expected.get(packet)]
                self.wrong(f"{books.name!r}: claims() is wrong at packets {packets[:5]}")

    def work(self, books: Books, envelope: hbcore.Envelope) -> None:
        """Claim, claim many, settle and release, for holders and strangers."""
        for user in self.some_users(books, 4):
            claim = self.ask(envelope.claim, user)
            if claim is self:
                if user not in books.held:
                    self.doubt(books, user)
            else:
                self.judge(books, user, claim.status, claim.amount, claim.packet)
        self.claim_many(books, envelope, [user for user in self.some_users(books, 20) if isinstance(user, int)])
        for user in self.some_users(books, 3):
            self.compare_claim(books, user, "settle", self.ask(envelope.settle, user))
            if user in books.held:
                books.settled.add(user)
        for user in self.some_users(books, 5):
            self.release(books, envelope, user)

    def release(self, books: Books, envelope: hbcore.Envelope, user: Any) -> None:
        answer = self.ask(envelope.release, user)
        if isinstance(answer, ANSWERS) or user in books.settled:
            is_right = user in books.settled and isinstance(answer, hbcore.ConflictError)
            if not is_right and answer is not self and user not in books.unknown:
                self.doubt(books, user)
                self.wrong(f"{books.name!r}: release({user!r}) is {answer!r}")
            return
        self.compare_claim(books, user, "release", answer)
        if user in books.held:
            books.free.add(books.held.pop(user))

    def drain(self, books: Books, envelope: hbcore.Envelope) -> None:
        """Claim until nothing is free: the last packet is granted, and not one more."""
        fresh = (user for user in STRANGERS if user not in books.held and user not in books.unknown)
        self.claim_many(books, envelope, itertools.islice(fresh, len(books.free) + 3))
        if not books.is_closed and books.free and books.is_exact:
            self.wrong(f"{books.name!r}: packets {sorted(books.free)[:5]} went to nobody")

    def close(self, books: Books, envelope: hbcore.Envelope) -> None:
        refunded = self.ask(envelope.close)
        books.is_closed = books.is_refunded = True
        if refunded is self:
            books.is_exact = False
        elif not 0 <= refunded <= books.total:
            raise Failed(f"amount: {books.name!r} refunds {refunded} of {books.total}")
        elif books.is_exact and refunded != books.total - sum(books.amounts[packet] for packet in books.held.values()):
            self.wrong(f"{books.name!r}: close() refunds {refunded}")

    def compare_report(self, report: hbcore.AuditReport) -> None:
        """Compare an audit that found nothing with the model."""
        if report.amount_granted + report.amount_settled > report.amount_total:
            raise Failed(f"amount: {report}")
        if all(books.is_exact for books in self.everything):
            stats = [books.stats() for books in self.everything]
            counts = (len(stats), *(sum(s[i] for s in stats) for i in (0, 1, 2)))
            amounts = tuple(sum(s[i] for s in stats) for i in (4, 5, 6))
            if (*report[:4], *report[5:8]) != counts + amounts:
                self.wrong(f"audit() found nothing, but has {tuple(report)}, not {counts + amounts}")

    def outcome(self) -> tuple[str, str]:
        """Return what came of it; a failure has a colon."""
        if self.wrongs:
            return ("wrong, named" if self.named else "failure: unnamed"), self.wrongs[0]
        if self.errors:
            return "error", self.errors[0]
        return ("right, named", self.named[0]) if self.named else ("right", "")


def means_nothing(world: World, damaged: bytes) -> bool:
    """Whether only bits that mean nothing were changed."""
    sound = world.content
    if len(damaged) != len(sound):
        return False
    changed = np.flatnonzero(np.frombuffer(sound, np.uint8) != np.frombuffer(damaged, np.uint8)).tolist()
    return not any((sound[at] ^ damaged[at]) & ~world.layout.noise[at] for at in changed)


def read_only(examination: Examination) -> None:
    """Read everything; whatever would change the file is refused, and nothing has changed it."""
    engine = examination.engine
    before = examination.path.read_bytes()
    examination.list_envelopes()
    for books in examination.used:
        envelope = examination.ask(engine.envelope, books.name)
        if isinstance(envelope, hbcore.Envelope):
            examination.look(books, envelope)
            for call in (envelope.claim, envelope.settle, envelope.release):
                with suppress(hbcore.HbcoreError):
                    if call(STRANGERS[0]):
                        raise Failed(f"read-only: {call.__name__} has done something")
    examination.audit(engine)
    if examination.path.read_bytes() != before:
        raise Failed("read-only: the file was changed")


def damage_while_open(examination: Examination, damage: Damage, chance: random.Random) -> tuple[bytes, bytes]:
    """Use the file, and damage it at one of the pauses, at once or while the next calls are under way.

    Returns the file as it was before, and what the damage makes of that.
    """
    steps = examination.steps()
    collections.deque(itertools.islice(steps, chance.randrange(40)), 0)
    before = examination.path.read_bytes()
    with open(examination.path, "rb+", buffering=0) as file:
        # The thread gets its turn when a call without the GIL, or the interpreter, lets go of it.
        thread = threading.Thread(target=damage.apply_to_open, args=(file.fileno(),))
        thread.start()
        try:
            if chance.random() < 0.7:
                thread.join()
            collections.deque(steps, 0)
        finally:
            thread.join()
    if examination.wrongs and not examination.named and examination.open():
        examination.audit(examination.engine)
    return before, damage.apply(before)


def examine(world: World, path: Path, damage: Damage, mode: str, chance: random.Random) -> tuple[str, str]:
    """Make the damaged file, use it, and return the outcome and its reason."""
    before, after = world.content, damage.apply(world.content)
    content = before if mode == "open" else after
    with open(path, "xb", buffering=0) as file:
        file.write(content.rstrip(b"\0"))
        file.truncate(len(content))
    examination = Examination(world, path, damage, chance)
    try:
        if not examination.open(**({"readonly": True} if mode == "readonly" else {})):
            return "refused", examination.errors[-1]
        with examination.engine:
            if mode == "readonly":
                read_only(examination)
            elif mode == "open":
                before, after = damage_while_open(examination, damage, chance)
            else:
                collections.deque(examination.steps(), 0)
        if path.stat().st_blocks * 512 > DISK_LIMIT:
            return "failure: disk", f"{path.stat().st_blocks * 512} bytes on disk"
        outcome, reason = examination.outcome()
        if (
            outcome == "failure: unnamed"
            and mode == "readonly"
            and (world.name == "dead" or before[BOOT] != after[BOOT])
        ):
            # An index that is being replaced, or is from before a reboot, cannot be put right without writing, and the
            # audit leaves it out: hbcore says so in Engine.audit.
            return "untold", f"only read, and the index is not to be relied on; {reason}"
        if outcome == "failure: unnamed":
            why = untold(world.layout, before, after)
            if mode == "open":
                why = why or went_back(world.layout, world.content, before, after, damage.writes)
            if why:
                return "untold", f"{why}; {reason}"
        if outcome == "wrong, named" and mode != "open" and means_nothing(world, after):
            return "failure: noise", reason
        return outcome, reason
    except Failed as failure:
        return f"failure: {str(failure).partition(':')[0]}", str(failure)
    except Exception:
        return "failure: exception", traceback.format_exc()
    finally:
        path.unlink()
