"""Prints how fast the re-splits of a capped Dirichlet law come to it: why the law makes 48 rounds.

First the rate: what is left, after one more round, of the slowest deviation in a large envelope, where pairs meet at
random. Then, exactly, the distance in total variation between the law and what the rounds make of an even split, for
envelopes small enough to list every state. With --quick, of the first cap and of the smallest envelope.
"""

import argparse

from bench.measure.progress import progress
from bench.rows.mixing import CAPS, CONCENTRATIONS, ROUNDS, SMALL, distances, rate


def add_options(parser: argparse.ArgumentParser) -> None:
    """It has no options of its own."""


def caps_of(packets: int, units: int) -> list[int]:
    return sorted({-(-units // packets) + 1, 3 * units // (2 * packets), units})


def run(options: argparse.Namespace) -> int:
    print("what a round leaves of the slowest deviation, many packets; cap in times the mean\n")
    print("  cap" + "".join(f"{f'c = {concentration}':>9}" for concentration in CONCENTRATIONS))
    for cap in CAPS[:1] if options.quick else CAPS:
        rates = []
        with progress(f"cap {cap}", len(CONCENTRATIONS)) as bar:
            for concentration in CONCENTRATIONS:
                bar.next(f"c = {concentration}")
                rates.append(rate(concentration, cap))
        print(f"{cap:5}" + "".join(f"{found:9.3f}" for found in rates))
    print("\ndistance from the law (total variation) after so many rounds\n")
    print("packets  units  cap    c" + "".join(f"{done:10}" for done in ROUNDS))
    for packets, units in SMALL[:1] if options.quick else SMALL:
        for concentration in (1, 3):
            for cap in caps_of(packets, units):
                with progress(f"{packets} packets", None) as bar:
                    bar.next(f"{units} units, cap {cap}, c = {concentration}")
                    found = "".join(f"{distance:10.1e}" for distance in distances(packets, units, cap, concentration))
                print(f"{packets:7}{units:7}{cap:5}{concentration:5}{found}")
    return 0
