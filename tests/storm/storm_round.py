"""One round of a storm: a crew at work on one engine, deaths and stops in some weather, and then the reckoning.

The reckoning is done by one process that lives: it opens the file after everybody has died, or has had it open all the
while. Its questions and answers go into the history as well, so that one check covers what the crew was told, what is
there in the end, and what the dead were doing when they died.
"""

import os
import pickle
import random
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from mmap import mmap
from pathlib import Path
from typing import Self

import numpy as np
from storm_crew import (
    CLOSING,
    MADE,
    MADE_PER_WORKER,
    PLACES,
    STOPPING,
    Crew,
    Plan,
    Worker,
    WorkerFault,
    clock,
    open_envelope,
    user_name,
    users_of,
)
from storm_model import HISTORY, RECORD, Answer, Broken, Kind, amounts_of, check_history, is_new

import hbcore

WEATHERS = ("random", "aimed", "stepped")
ANSWERS_A_KILL = 2_000
"""A kill is due after so many answers of the whole crew, so that deaths are as frequent on any machine."""
CALM_ANSWERS = 300_000
CORE = {
    "account",
    "claiming",
    "ending",
    "ledger",
    "index",
    "free_map",
    "deck",
    "directory",
    "opening",
    "region",
    "recovery",
}
WEATHER_IS_OVER = b"."
EXAMINER = -1
FRESH_USERS = 1_000_000
"""The reckoning claims for users of its own from this number on."""


@dataclass(frozen=True)
class Settings:
    """What a round is like; all of it follows from the seed and the number of the round."""

    seed: int
    number: int
    kills: int
    slots: int
    folder: Path
    is_memory: bool
    weather: str  # one of WEATHERS, or "calm": nobody is killed or stopped
    is_crowded: bool  # more users than packets
    is_preloaded: bool  # the engine is open before the crew is forked
    closing: int | None  # an envelope that everybody closes towards the end
    ending: str  # "kill" or "drain" whoever is left, or "hold": some stay stopped while the reckoning begins
    takes_first: bool  # the reckoning begins with claims, and not with an audit

    @classmethod
    def drawn(
        cls, seed: int, number: int, kills: int, slots: int, folder: Path, is_memory: bool, is_calm: bool
    ) -> Self:
        """Draw what round ``number`` is like."""
        rng = random.Random(f"settings {seed} {number}")
        weather = "calm" if is_calm else rng.choices(WEATHERS, (30, 50, 20))[0]
        ending = rng.choices(("kill", "drain", "hold"), (40, 30, 30))[0]
        return cls(
            seed=seed,
            number=number,
            kills=kills,
            slots=slots,
            folder=folder,
            is_memory=is_memory,
            weather=weather,
            is_crowded=rng.random() < 0.5,
            is_preloaded=is_memory or rng.random() < 0.4,
            closing=rng.randrange(MADE) if rng.random() < 0.25 else None,
            ending="drain" if is_calm else ending,
            takes_first=rng.random() < 0.5,
        )


@dataclass
class Outcome:
    """What a round has shown."""

    counted: Counter[str] = field(default_factory=Counter)
    places: Counter[str] = field(default_factory=Counter)  # where a stop has found a worker
    graves: Counter[str] = field(default_factory=Counter)  # where a stopped worker was killed
    claim_ns: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    claim_cpu_us: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    broken: str = ""


def native_code() -> list[tuple[int, int, str]]:
    """Return where the code of hbcore's extension modules lies in this process, and in all that it forks."""
    folder = str(Path(hbcore.__file__).resolve().parent)
    found = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        bounds, rights, *_, path = line.split(maxsplit=5)
        if "x" in rights and path.startswith(folder):
            low, high = bounds.split("-")
            found.append((int(low, 16), int(high, 16), Path(path).name.partition(".")[0]))
    assert found, f"no code of hbcore's is loaded from {folder}"
    return found


def place_of(worker: Worker, code: list[tuple[int, int, str]]) -> str:
    """Return in which of hbcore's modules a stopped worker stands, or where else."""
    try:
        words = os.pread(worker.syscall_fd, 256, 0).split()
    except OSError:
        return "unknown"
    if words[0] != b"-1":
        return "unknown" if words[0] == b"running" else "a system call"
    at = int(words[2], 16)
    return next((name for low, high, name in code if low <= at < high), "elsewhere")


# ---- weather ----------------------------------------------------------------------------------------------------


class Weather:
    """Kills and stops the workers of a crew until enough of them are dead."""

    def __init__(self, settings: Settings, crew: Crew, orders: mmap, rng: random.Random, outcome: Outcome) -> None:
        self.settings = settings
        self.crew = crew
        self.orders = orders
        self.rng = rng
        self.outcome = outcome
        self.code = native_code()
        # The protocol is in these, if they are modules of their own; deaths elsewhere in hbcore are of less interest.
        self.modules = {name for _, _, name in self.code}
        self.core = {*(self.modules & CORE or self.modules), "unknown"}
        self.heard = 0
        self.paid = 0.0

    def blow(self) -> None:
        """Go on until the round's number of workers have been killed."""
        for slot in range(self.settings.slots):
            self.crew.bear(slot)
        {"random": self.random, "aimed": self.aimed, "stepped": self.stepped, "calm": self.calm}[
            self.settings.weather
        ]()

    def hear(self) -> None:
        for worker in self.crew.living.values():
            self.heard += worker.hear()

    def tend(self) -> list[Worker]:
        """Replace the dead, hear the living; return who has just stopped."""
        stopped = []
        for worker in self.crew.news():
            if worker.died:
                self.crew.bear(worker.slot)
            else:
                stopped.append(worker)
        self.hear()
        if self.settings.closing is not None and self.crew.kills > 0.7 * self.settings.kills:
            self.orders[CLOSING] = self.settings.closing + 1
        return stopped

    def running(self) -> list[Worker]:
        return [w for w in self.crew.living.values() if not w.asked_to_stop and not w.is_doomed]

    def at_work(self) -> list[Worker]:
        """Those who run and have told what they are about to do: past the start of a process."""
        return [w for w in self.running() if w.told]

    def stopped(self) -> list[Worker]:
        return [w for w in self.crew.living.values() if w.is_stopped and not w.is_doomed]

    def is_over(self) -> bool:
        return self.crew.kills >= self.settings.kills

    def is_due(self) -> bool:
        """Whether it is time for another death."""
        return self.heard > self.paid * RECORD.itemsize * ANSWERS_A_KILL

    def pay(self, kills: int) -> None:
        """So many deaths have happened, or are about to; the next is due after a random number of answers."""
        self.paid += kills * self.rng.expovariate(1)

    def locate(self, worker: Worker) -> str:
        place = place_of(worker, self.code)
        self.outcome.places[place] += 1
        return place

    def kill(self, workers: list[Worker]) -> None:
        """Kill workers; where they stand is known of those that are stopped."""
        for worker in workers:
            if worker.is_stopped:
                self.outcome.graves[place_of(worker, self.code)] += 1
            self.crew.kill(worker)
        self.pay(len(workers))

    def nudge(self, worker: Worker) -> None:
        """Let a stopped worker run for microseconds."""
        self.crew.go_on(worker)
        until = clock() + self.rng.randrange(500, 60_000)
        while clock() < until:
            pass

    def calm(self) -> None:
        while self.heard < CALM_ANSWERS * RECORD.itemsize:
            self.crew.wait_for(0.005)
            self.tend()

    def random(self) -> None:
        """Anybody at any moment, sometimes several at once."""
        while not self.is_over():
            self.crew.wait_for(self.rng.expovariate(1 / 0.001))
            for worker in self.tend():
                self.locate(worker)
            at_work, stopped = self.at_work(), self.stopped()
            if self.is_due() and at_work + stopped:
                count = self.rng.choice((1, 1, 1, 2, 3, self.settings.slots))
                # Now and then somebody who has not even begun.
                victims = at_work + stopped if self.rng.random() < 0.9 else list(self.crew.living.values())
                self.kill(self.rng.sample(victims, min(count, len(victims))))
                continue
            draw = self.rng.random()
            if draw < 0.2 and len(at_work) > 2:
                self.crew.stop(self.rng.choice(at_work))
            elif draw < 0.4 and stopped:
                self.crew.go_on(self.rng.choice(stopped))

    def aimed(self) -> None:
        """Workers stop themselves in the middle of calls; there they are killed, or microseconds later, or left so."""
        while not self.is_over():
            self.crew.wait_for(0.001)
            for worker in self.tend():
                place = self.locate(worker)
                self.crew.correct_delay(place == "a system call")
                if place not in self.modules | self.core:
                    self.crew.go_on(worker)
                elif self.rng.random() < (0.7 if place in self.core else 0.3) and self.is_due():
                    if self.rng.random() < 0.2:
                        self.nudge(worker)
                    self.kill([worker])
            stopped = self.stopped()
            if self.is_due() or len(stopped) < 3:
                at_work = self.at_work()
                for worker in self.rng.sample(at_work, min(4, len(at_work))):
                    if not worker.lit:
                        self.crew.light(worker)
            if stopped and (len(stopped) > 4 or self.rng.random() < 0.1):
                worker = self.rng.choice(stopped)
                if self.rng.random() < 0.7:
                    self.crew.go_on(worker)
                else:
                    self.kill([worker])

    def stepped(self) -> None:
        """All stand still but one, which runs for microseconds; many are killed where they stand."""
        while not self.is_over():
            for worker in self.tend():
                self.locate(worker)
            running, stopped = self.running(), self.stopped()
            if running:
                # Let the new ones get to work before they are taken into the step.
                self.crew.wait_for(self.rng.uniform(0.001, 0.003))
                for worker in self.at_work():
                    self.crew.stop(worker)
            if not stopped:
                continue
            for _ in range(50):
                worker = self.rng.choice(stopped)
                place = self.step(worker)
                if self.rng.random() < (0.6 if place in self.core else 0.1 if place in self.modules else 0.003):
                    self.kill([worker])
                    break

    def step(self, worker: Worker) -> str:
        """Let a stopped worker run for microseconds, and return where it stands then."""
        is_lit = self.rng.random() < 0.7
        if is_lit:
            self.crew.light(worker)
        self.nudge(worker)
        self.crew.stop(worker)
        for _ in self.crew.news(worker.pid, 0):
            pass
        place = self.locate(worker)
        if is_lit:
            self.crew.correct_delay(place == "a system call")
        return place

    def end(self) -> list[Worker]:
        """End the crew as the round's ending says; return those who are held: alive, and stopped."""
        held = []
        if self.settings.ending == "hold":
            held = self.stopped()
            while len(held) < 2:
                running = self.running()
                if running:
                    self.crew.stop(running[0])
                    for _ in self.crew.news(running[0].pid, 0):
                        pass
                    held = self.stopped()
                else:
                    self.tend()
        self.orders[STOPPING] = 1
        for worker in list(self.crew.living.values()):
            if worker in held:
                continue
            if self.settings.ending == "kill":
                self.crew.kill(worker)
            elif worker.asked_to_stop and not worker.is_doomed:
                self.crew.go_on(worker)
        self.await_all(held)
        return held

    def release(self, held: list[Worker]) -> None:
        """End those who were held: half are killed, half go on with what they were doing and then end."""
        for worker in held:
            if self.rng.random() < 0.5:
                self.kill([worker])
            else:
                self.crew.go_on(worker)
        self.await_all([])

    def await_all(self, held: list[Worker]) -> None:
        for worker in list(self.crew.living.values()):
            while worker not in held and not worker.died:
                self.hear()  # a full pipe must not keep anybody from ending
                self.crew.wait_for(0.01)
                for other in self.crew.news():
                    if not other.died and other not in held:
                        self.crew.go_on(other)  # its fuse was still burning


# ---- history ----------------------------------------------------------------------------------------------------


def history_of(worker: Worker, plan: Plan) -> np.ndarray:
    """Return the calls of one worker: those that were answered, and those that its death has cut off."""
    records = worker.records()
    is_intent = records["answer"] == Answer.INTENT
    intents = records[is_intent]
    answers = records[~is_intent]
    expected = int(intents["packet"].sum())
    cut_off = np.zeros(0, RECORD)
    if len(answers) != expected:
        last = intents[-1]
        assert len(answers) == expected - last["packet"], "a worker has told something else than what it meant to do"
        cut_off = np.zeros(last["packet"], RECORD)
        cut_off["step"] = last["step"] + np.arange(last["packet"])
        cut_off["began"], cut_off["ended"], cut_off["answer"] = last["began"], worker.died, Answer.CUT_OFF
        cut_off["packet"] = -1
    records = np.concatenate([answers, cut_off])
    rows = np.zeros(len(records), HISTORY)
    for name in ("began", "ended", "packet", "amount", "answer", "cpu_us"):
        rows[name] = records[name]
    steps = records["step"]
    rows["kind"], rows["user"], rows["worker"] = plan.kinds[steps], plan.users[steps], worker.number
    envelopes = plan.envelopes[steps]
    rows["envelope"] = np.where(envelopes >= MADE, envelopes + MADE_PER_WORKER * worker.number, envelopes)
    return rows


def claim_times(worker: Worker, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return how long single claims took while this worker was not stopped, and their processor time where measured."""
    starts = is_new(rows, "began")  # claims that were made one after the other have the times of all of them together
    alone = starts & np.append(starts[1:], True)
    claims = rows[alone & (rows["kind"] == Kind.CLAIM) & (rows["answer"] != Answer.CUT_OFF)]
    cpu_us = claims["cpu_us"][claims["cpu_us"] > 0]
    for asked, continued in worker.stops:
        claims = claims[(claims["began"] > continued) | (claims["ended"] < asked)]
    return claims["ended"] - claims["began"], cpu_us


# ---- the reckoning ----------------------------------------------------------------------------------------------


class Examiner:
    """One living process that asks an engine for everything that it owes."""

    def __init__(self, settings: Settings, engine: hbcore.Engine) -> None:
        self.settings = settings
        self.engine = engine
        self.rows: list[tuple] = []
        self.fresh: dict[int, list[int]] = {}

    def note(
        self, began: int, number: int, user: int, kind: int, answer: int, packet: int = -1, amount: int = 0
    ) -> None:
        self.rows.append((began, clock(), EXAMINER, number, user, packet, amount, kind, answer, 0))

    def history(self) -> np.ndarray:
        return np.array(self.rows, HISTORY)

    def take(self, number: int, envelope: hbcore.Envelope) -> bool:
        """Claim for fresh users until there is nothing left; return whether the envelope was closed instead."""
        fresh = self.fresh.setdefault(number, [])
        packets = envelope.terms.packets
        while True:
            user = FRESH_USERS + len(fresh)
            if packets > 500 and len(fresh) < packets // 2:
                # Half of a large one in a batch.
                users = list(range(user, user + packets // 2))
                began = clock()
                for user, claim in zip(users, envelope.claim_many(np.array(users)).tolist(), strict=True):
                    self.note(began, number, user, Kind.CLAIM_MANY, *(claim[i] for i in (0, 2, 1)))
                fresh += users
                continue
            fresh.append(user)
            began = clock()
            claim = envelope.claim(user_name(number, user))
            self.note(began, number, user, Kind.CLAIM, claim.status, claim.packet, claim.amount)
            if claim.status == hbcore.Status.GRANTED and len(fresh) <= 2 * packets + 2:
                continue
            if claim.status not in (hbcore.Status.SOLD_OUT, hbcore.Status.CLOSED):
                raise Broken(f"a fresh user of {envelope!r} was answered {claim}")
            return claim.status == hbcore.Status.CLOSED

    def find_all(self, number: int, envelope: hbcore.Envelope) -> dict[bytes, tuple[int, int]]:
        """Ask for the claim of every user; return packet and amount by the user's hash."""
        held = {}
        for user in [*users_of(number, self.settings.is_crowded, self.settings.slots), *self.fresh.get(number, [])]:
            name = user_name(number, user)
            began = clock()
            claim = envelope.find(name)
            if claim is None:
                self.note(began, number, user, Kind.FIND, Answer.NONE)
            else:
                self.note(began, number, user, Kind.FIND, Answer.HELD, claim.packet, claim.amount)
                held[self.engine.user_hash(name)] = (claim.packet, claim.amount)
        return held

    def examine(self, number: int, envelope: hbcore.Envelope, settles: np.ndarray) -> Counter[str]:
        """Take what is left of one envelope and check all of it; return what was there, counted as the audit does."""
        if not self.settings.takes_first:
            self.find_all(number, envelope)
        is_closed = self.take(number, envelope)
        held = self.find_all(number, envelope)
        packets = sorted(packet for packet, _ in held.values())
        if len(set(packets)) != len(packets):
            raise Broken(f"two users hold one packet of {envelope!r}: {packets}")
        if not is_closed and packets != list(range(envelope.terms.packets)):
            missing = sorted(set(range(envelope.terms.packets)) - set(packets))
            raise Broken(f"{envelope!r} is sold out, and nobody holds its packets {missing}: they are stranded")
        claims = envelope.claims()
        found = {bytes(row["user"]): (int(row["packet"]), int(row["amount"])) for row in claims}
        if found != held or len(claims) != len(held):
            raise Broken(f"the claims of {envelope!r} are not those that are found: {found} and {held}")
        self.check_states(number, claims, settles)
        settled = claims["state"] == hbcore.State.SETTLED
        total, amount = envelope.terms.total, int(claims["amount"].sum())
        if not is_closed and amount != total:
            raise Broken(f"the packets of {envelope!r} sum to {amount}")
        if is_closed:
            began = clock()
            refund = envelope.close()
            self.note(began, number, -1, Kind.CLOSE, Answer.DONE, amount=refund)
            if refund != total - amount:
                raise Broken(f"{envelope!r} has refunded {refund}, and {amount} of {total} is granted")
        return Counter(
            envelopes=1,
            packets=envelope.terms.packets,
            granted=int((~settled).sum()),
            settled=int(settled.sum()),
            refunded=envelope.terms.packets - len(claims),
            amount_total=total,
            amount_granted=int(claims["amount"][~settled].sum()),
            amount_settled=int(claims["amount"][settled].sum()),
        )

    def check_states(self, number: int, claims: np.ndarray, settles: np.ndarray) -> None:
        """Check that a user whose settle was acknowledged is settled, and no user is for whom no settle was asked."""
        settles = settles[settles["envelope"] == number]
        states = {bytes(row["user"]): int(row["state"]) for row in claims}
        settled = {user for user, state in states.items() if state == hbcore.State.SETTLED}
        asked = np.unique(settles["user"][settles["answer"] != Answer.NONE]).tolist()
        done = np.unique(settles["user"][settles["answer"] == Answer.HELD]).tolist()
        for users, is_wrong, words in (
            (asked, lambda hashes: settled - hashes, "is settled, which nobody has asked for"),
            (done, lambda hashes: hashes - settled, "is not settled, which was acknowledged"),
        ):
            wrong = is_wrong({self.engine.user_hash(user_name(number, user)) for user in users})
            if wrong:
                raise Broken(f"a claim of envelope {number} {words}: user hash {wrong.pop().hex()}")

    def examine_all(self, history: np.ndarray) -> dict[int, np.ndarray]:
        """Examine every envelope that was made or may have been; return the amounts of each."""
        creates = history[history["kind"] == Kind.CREATE]
        wanted = [*range(MADE), *np.unique(creates["envelope"]).tolist()]
        acknowledged = {*np.unique(creates["envelope"][creates["answer"] == Answer.DONE]).tolist()}
        there = {envelope.name for envelope in self.engine.envelopes()}
        names = {open_name(number) for number in wanted}
        if lost := {open_name(number) for number in acknowledged} - there:
            raise Broken(f"envelopes that were made are not there: {lost}")
        if there - names:
            raise Broken(f"there are envelopes that nobody has made: {there - names}")
        if not self.settings.takes_first:
            self.engine.audit()
        settles = history[history["kind"] == Kind.SETTLE]
        counted: Counter[str] = Counter()
        amounts = {}
        for number in wanted:
            envelope = open_envelope(self.engine, number)  # makes it, if its maker died too early
            counted += self.examine(number, envelope, settles)
            amounts[number] = amounts_of(envelope)
        report = self.engine.audit()._asdict()
        if any(report[name] != counted[name] for name in report):
            raise Broken(f"the audit counts {report}, and the claims {dict(counted)}")
        return amounts


def open_name(number: int) -> str:
    """Return the name of envelope ``number``."""
    return PLACES[number].terms.name if number < MADE else f"made {number - MADE}"


# ---- the round --------------------------------------------------------------------------------------------------


def play(settings: Settings, plans: dict[bool, list[Plan]], weather_is_over: Callable[[], object]) -> Outcome:
    """Play one round in this process, which has opened no engine, and its children."""
    outcome = Outcome()
    rng = random.Random(f"round {settings.seed} {settings.number}")
    path = str(settings.folder / f"round-{settings.number}.hb")
    engine = None
    if settings.is_preloaded:
        engine = hbcore.Engine(None if settings.is_memory else path)
        if rng.random() < 0.5:
            open_envelope(engine, rng.randrange(MADE))
    orders = mmap(-1, 4096)
    own_plans = plans[settings.is_crowded]
    history = np.zeros(0, HISTORY)
    with Crew(own_plans, engine or path, memoryview(orders), rng) as crew:
        weather = Weather(settings, crew, orders, rng, outcome)
        try:
            weather.blow()
            held = weather.end()
            examiner = Examiner(settings, engine or hbcore.Engine(path))
            if held:
                # They live and must be let be; all other packets can be had. The history says whether enough were.
                for number in rng.sample(range(MADE), 3):
                    examiner.take(number, open_envelope(examiner.engine, number))
                weather.release(held)
            weather_is_over()
            parts = []
            for worker in crew.dead:
                rows = history_of(worker, own_plans[worker.slot])
                parts.append(rows)
                if len(rows):
                    claim_ns, cpu_us = claim_times(worker, rows)
                    outcome.claim_ns = np.append(outcome.claim_ns, claim_ns)
                    outcome.claim_cpu_us = np.append(outcome.claim_cpu_us, cpu_us)
            history = np.concatenate(parts)
            amounts = examiner.examine_all(history)
            history = np.concatenate([history, examiner.history()])
            outcome.counted += check_history(history, amounts)
        except Exception as error:
            is_expected = isinstance(error, Broken | WorkerFault)
            outcome.broken = str(error) if is_expected else traceback.format_exc()
            np.save(settings.folder / f"round-{settings.number}-history.npy", history)
        outcome.counted["kills"] = crew.kills
        outcome.counted["stops"] = crew.stops
        outcome.counted["workers"] = crew.born
    if not outcome.broken and not settings.is_memory:
        for leftover in settings.folder.glob(f"round-{settings.number}.hb*"):
            os.unlink(leftover)
    outcome.counted["rounds"] = 1
    return outcome


def play_apart(settings: Settings, plans: dict[bool, list[Plan]], fd: int) -> None:
    """Play a round in a child of the storm; write when the weather is over, and then what came of it."""
    outcome = play(settings, plans, lambda: os.write(fd, WEATHER_IS_OVER))
    with os.fdopen(fd, "wb") as pipe:
        pipe.write(pickle.dumps(outcome))
