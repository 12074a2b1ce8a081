"""The sections of the table, each some rows that are measured together, by the name that ``--only`` takes."""

from collections.abc import Callable, Sequence
from functools import partial

from bench.measure.findings import Finding
from bench.measure.progress import progress
from bench.measure.turns import Scale
from bench.rows import batches, claims, creation, latency, laws, peers, processes, sizes

SECTIONS: dict[str, Callable[[Scale], list[Finding]]] = {
    "scalar": claims.scalar,
    "batch": batches.batch,
    "large": batches.large_batch,
    "processes": processes.two_beside_one,
    "throughput": processes.throughput,
    "answers": claims.answers,
    "peers": peers.beside_peers,
    "creation": creation.creation,
    "giant": sizes.giant,
    "laws": laws.laws,
    "memory": sizes.memory,
    "curve": sizes.curve,
    "tail": latency.tail,
}
HUGE = ("scalar", "batch", "large", "processes", "peers", "creation", "curve", "tail")
"""The sections that huge pages change."""

Done = dict[str, list[Finding]]


def measured(names: Sequence[str], scale: Scale, label: str = "measuring") -> Done:
    """Measure the sections one after the other, and show on a terminal how far that is."""
    done: Done = {}
    with progress(label, len(names)) as bar:

        def tell(name: str, text: str) -> None:
            bar.tell(f"{name}: {text}")

        for name in names:
            bar.next(name)
            scale.tell = partial(tell, name)
            done[name] = SECTIONS[name](scale)
    return done
