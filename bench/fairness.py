"""Draws what the laws do to the amounts, and what a packet's number does to its luck: docs/laws.png, docs/fairness.png.

    python bench/fairness.py [--envelopes 400000] [--out docs] [--quick]

Both pictures are of envelopes of 10,000 over 10 packets. The figures behind them are printed as tables. The seeds are
fixed, so that every run draws the same pictures. Beside hbcore's laws stands the classic that most services use: the
double mean as it is drawn, packet by packet, without a shuffle.
"""

import argparse
import math
import tempfile
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.ticker import FuncFormatter
from style import BLUE, BROWN, FAINT, GREEN, GREY, INK, RED, SOFT, headline, label_axes, plain_axes, save, title_axes

from hbcore import law

TOTAL, PACKETS = 10_000, 10
LAWS = {
    # label: arguments, colour, what it means
    "equal": ({"law": "equal"}, GREY, "alike, but for odd units"),
    "dirichlet, c = 10": ({"law": "dirichlet", "concentration": 10}, GREEN, "gentle"),
    "dirichlet, c = 3": ({"law": "dirichlet", "concentration": 3}, BLUE, "the default concentration"),
    "double_mean": ({"law": "double_mean"}, RED, "the field's classic, shuffled"),
    "dirichlet, c = 1": ({"law": "dirichlet", "concentration": 1}, BROWN, "every possible split is equally likely"),
}
CLASSIC = "double mean, not shuffled"
FAIR = ("double_mean", "dirichlet, c = 3")


def native_envelopes(count: int, family: int, arguments: dict) -> np.ndarray:
    """``count`` envelopes, one a row, by the amounts of their packets."""
    rows = np.empty((count, PACKETS), np.int64)
    for number in range(count):
        seed = (family << 64 | number).to_bytes(32, "little")
        rows[number] = law.split(TOTAL, PACKETS, seed=seed, **arguments)
    return rows


def classic_envelopes(count: int) -> np.ndarray:
    """The same by the classic: uniform between one unit and twice the mean of what remains, in the order of claims."""
    random = np.random.default_rng(8)
    rows = np.empty((count, PACKETS), np.int64)
    rest = np.full(count, TOTAL - PACKETS)
    for packet in range(PACKETS - 1):
        share = random.integers(0, 2 * rest // (PACKETS - packet), endpoint=True)
        rows[:, packet] = share + 1
        rest -= share
    rows[:, -1] = rest + 1
    return rows


def spread(rows: np.ndarray) -> np.ndarray:
    """The standard deviation of the amount, by packet."""
    return rows.std(axis=0)


def best_chance(rows: np.ndarray) -> np.ndarray:
    """The chance of the best packet of the envelope, by packet; equals share it."""
    best = rows == rows.max(axis=1)[:, None]
    return (best / best.sum(axis=1)[:, None]).mean(axis=0)


def draw_laws(rows: dict[str, np.ndarray], path: Path) -> None:
    figure, all_axes = plt.subplots(len(rows), 1, figsize=(8, 6.2), sharex=True)
    figure.subplots_adjust(left=0.27, right=0.97, top=0.86, bottom=0.09, hspace=0.28)
    edges = np.arange(0, 4_001, 50)
    for axes, (name, amounts) in zip(all_axes, rows.items(), strict=True):
        _, colour, meaning = LAWS[name]
        # Each histogram fills its own height: it is the shapes that are compared.
        share = np.histogram(amounts, edges)[0] / amounts.size
        axes.stairs(share, edges, fill=True, color=colour, alpha=0.85, linewidth=0)
        axes.set_ylim(0, share.max() * 1.12)
        axes.set_xlim(0, 4_000)
        axes.set_yticks([])
        plain_axes(axes)
        axes.text(-0.02, 0.62, name, transform=axes.transAxes, ha="right", color=colour, fontsize=11, weight="bold")
        axes.text(-0.02, 0.34, meaning, transform=axes.transAxes, ha="right", color=SOFT, fontsize=7.5)
        low, middle, high = np.percentile(amounts, [1, 50, 99])
        note = f"1 % below {low:,.0f}   half below {middle:,.0f}   1 % above {high:,.0f}"
        if low == high:
            note = f"always {low:,.0f}"
        axes.text(0.995, 0.78, note, transform=axes.transAxes, ha="right", color=SOFT, fontsize=8)
    all_axes[-1].xaxis.set_major_formatter(FuncFormatter(lambda amount, _: f"{amount:,.0f}"))
    label_axes(all_axes[-1], "amount of a packet")
    subtitle = "How often a packet holds which amount; the mean is always 1,000."
    headline(figure, "Five ways to split 10,000 over 10 packets", subtitle, 0.945, 0.905)
    save(figure, path)


def draw_fairness(rows: dict[str, np.ndarray], path: Path) -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 4.4))
    figure.subplots_adjust(left=0.075, right=0.97, top=0.7, bottom=0.11, wspace=0.22)
    numbers = np.arange(1, PACKETS + 1)
    for axes, measure in ((left, spread), (right, best_chance)):
        for name, amounts in rows.items():
            classic = name == CLASSIC
            axes.plot(
                numbers,
                measure(amounts),
                color=SOFT if classic else LAWS[name][1],
                linestyle=(0, (4, 2)) if classic else "-",
                linewidth=2,
                marker="o",
                markersize=4.5,
                label=name if classic else f"hbcore: {name}",
            )
        plain_axes(axes)
        axes.set_xticks(numbers)
        axes.grid(axis="y", color=FAINT, linewidth=0.7)
        axes.set_axisbelow(True)
        label_axes(axes, "number of the packet")
    left.set_ylim(450, 800)
    right.set_ylim(0.08, 0.13)
    right.set_yticks([0.08, 0.09, 0.1, 0.11, 0.12, 0.13])
    right.yaxis.set_major_formatter(FuncFormatter(lambda chance, _: f"{100 * chance:.0f} %"))
    for axes, title in ((left, "Standard deviation of the amount"), (right, "Chance of the best packet")):
        title_axes(axes, title)
    figure.legend(
        *left.get_legend_handles_labels(),
        loc="upper left",
        bbox_to_anchor=(0.022, 0.86),
        ncols=3,
        frameon=False,
        fontsize=9,
        labelcolor=INK,
    )
    subtitle = "10,000 over 10 packets: what a packet's number says about its amount. With hbcore, nothing."
    headline(figure, "Position is no advantage", subtitle, 0.925, 0.87)
    save(figure, path)


def print_tables(rows: dict[str, np.ndarray]) -> None:
    print(f"{TOTAL:,} over {PACKETS} packets, {len(next(iter(rows.values()))):,} envelopes a law\n")
    for title, measure, form in (
        ("mean amount, by packet", lambda amounts: amounts.mean(axis=0), "{:8.1f}"),
        ("standard deviation of the amount, by packet", spread, "{:8.1f}"),
        ("chance of the best packet, by packet", best_chance, "{:8.4f}"),
    ):
        print(f"{title}\n{'':26}" + "".join(f"{number:8}" for number in range(1, PACKETS + 1)))
        for name, amounts in rows.items():
            print(f"{name:26}" + "".join(form.format(value) for value in measure(amounts)))
        print()
    count = len(next(iter(rows.values())))
    print(f"One standard error of a chance of 0.1 is {math.sqrt(0.09 / count):.4f}.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--envelopes", type=int, default=400_000, help="envelopes a law (default 400,000)")
    parser.add_argument(
        "--out",
        type=Path,
        help="folder of the pictures; docs, or with --quick, whose pictures are rough, a temporary one",
    )
    parser.add_argument("--quick", action="store_true", help="2,000 envelopes a law: to see that it runs")
    options = parser.parse_args()
    count = 2_000 if options.quick else options.envelopes
    if options.out is None:
        options.out = Path(tempfile.mkdtemp()) if options.quick else Path(__file__).parent.parent / "docs"
    if count < 1:
        parser.error(f"--envelopes must be at least 1, not {count}")
    options.out.mkdir(parents=True, exist_ok=True)
    rows = {name: native_envelopes(count, family, LAWS[name][0]) for family, name in enumerate(LAWS)}
    print_tables({CLASSIC: classic_envelopes(count)} | rows)
    draw_laws(rows, options.out / "laws.png")
    draw_fairness(
        {CLASSIC: classic_envelopes(count)} | {name: rows[name] for name in FAIR}, options.out / "fairness.png"
    )
    print(f"Wrote {options.out / 'laws.png'} and {options.out / 'fairness.png'}.")


if __name__ == "__main__":
    main()
