"""Draws what the laws do to the amounts, and what a packet's number does to its luck: laws.png and fairness.png."""

from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.ticker import FuncFormatter

from bench.drawing.style import (
    BLUE,
    BROWN,
    FAINT,
    GREEN,
    GREY,
    INK,
    RED,
    SOFT,
    headline,
    label_axes,
    plain_axes,
    save,
    title_axes,
)
from bench.rows.fairness import CLASSIC, PACKETS, best_chance, spread

LAWS = {
    # label: colour, what it means
    "equal": (GREY, "alike, but for odd units"),
    "dirichlet, c = 10": (GREEN, "gentle"),
    "dirichlet, c = 3": (BLUE, "the default concentration"),
    "double_mean": (RED, "the field's classic, shuffled"),
    "dirichlet, c = 1": (BROWN, "every possible split is equally likely"),
}


def draw_laws(rows: dict[str, np.ndarray], path: Path) -> None:
    figure, all_axes = plt.subplots(len(rows), 1, figsize=(8, 6.2), sharex=True)
    figure.subplots_adjust(left=0.27, right=0.97, top=0.86, bottom=0.09, hspace=0.28)
    edges = np.arange(0, 4_001, 50)
    for axes, (name, amounts) in zip(all_axes, rows.items(), strict=True):
        colour, meaning = LAWS[name]
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
                color=SOFT if classic else LAWS[name][0],
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
