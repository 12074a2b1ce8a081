"""Draws what the rows of the table have measured: throughput.png, cost.png and latency.png."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

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
from bench.rows import peers
from bench.rows.latency import PERCENTILES

SERIES = (BLUE, RED, GREEN, BROWN, GREY)
SHOWN_PEERS = {
    peers.BARE: "a bare C loop: the limit",
    peers.MANY: "hbcore, claim_many",
    peers.CLAIM: "hbcore, claim",
    peers.LOCK_AND_DICT: "a lock and a dict",
    peers.PIPELINED: "Valkey, Lua, pipelined",
    peers.REFERENCE: "the reference in Python",
    peers.SQLITE: "SQLite, WAL",
    peers.SINGLE: "Valkey, Lua, one by one",
}
LATENCIES = {
    "built-in": ("a built-in method that does nothing", SOFT, True),
    "touched": ("claim, touched", RED, True),
    "fresh": ("claim, fresh", BLUE, False),
    "server": ("Valkey, Lua, one by one, nobody else there", BROWN, False),
}


def rounded(value: float) -> str:
    """Two or three digits, with thousands and millions in words that are short."""
    for unit, name in ((1e6, " M"), (1e3, " k")):
        if value >= unit:
            return f"{value / unit:,.{0 if value >= 10 * unit or value % unit == 0 else 1}f}{name}"
    return f"{value:,.0f}"


def duration(nanoseconds: float) -> str:
    for unit, name in ((1e9, "s"), (1e6, "ms"), (1e3, "µs")):
        if nanoseconds >= unit:
            return f"{nanoseconds / unit:,.3g} {name}"
    return f"{nanoseconds:,.3g} ns"


def power_of_ten(value: float) -> str:
    return f"$10^{{{round(np.log10(value))}}}$"


def grid(axes: Axes, which: str = "y") -> None:
    axes.grid(axis=which, color=FAINT, linewidth=0.7)
    axes.set_axisbelow(True)


def draw_batches(axes: Axes, found: dict[str, Any]) -> None:
    """Lines: one for each number of processes, over the size of the batch."""
    places = range(len(found["sizes"]))
    for (processes, rates), colour in zip(found["rates"].items(), SERIES, strict=False):
        label = f"{processes} process{'es' if processes > 1 else ''}"
        axes.plot(
            places,
            np.array(rates) / 1e6,
            color=colour,
            linewidth=2,
            marker="o",
            markersize=4.5,
            label=label,
            clip_on=False,
        )
    plain_axes(axes)
    grid(axes)
    axes.set_ylim(0)
    axes.set_xticks(places, ["claim", *map(rounded, found["sizes"][1:])])
    label_axes(axes, "users in a call of claim_many")
    title_axes(axes, "Million claims a second")
    axes.legend(loc="upper left", frameon=False, fontsize=8.5, labelcolor=INK)


def draw_peers(axes: Axes, rates: dict[str, float]) -> None:
    """Bars, the fastest above, with their figures."""
    shown = sorted((rates[name], label) for name, label in SHOWN_PEERS.items() if name in rates)
    values, labels = [rate for rate, _ in shown], [label for _, label in shown]
    colours = [RED if label.startswith("hbcore") else FAINT for label in labels]
    axes.barh(labels, values, color=colours, height=0.62)
    for place, value in enumerate(values):
        axes.text(value * 1.15, place, rounded(value), va="center", color=INK, fontsize=8.5)
    plain_axes(axes)
    axes.set_xscale("log")
    axes.set_xlim(1e3, max(values) * 6)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: rounded(value)))
    axes.xaxis.set_minor_locator(NullLocator())
    label_axes(axes, "claims a second, one client")
    title_axes(axes, "Beside what people use today")


def draw_throughput(pictured: dict[str, Any], path: Path, title: str, machine: str) -> Path:
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.4, 4.2), width_ratios=(1, 0.82))
    figure.subplots_adjust(left=0.05, right=0.97, top=0.74, bottom=0.12, wspace=0.52)
    draw_batches(left, pictured["throughput"])
    draw_peers(right, pictured["peers"])
    subtitle = f"{machine}. Left: pages touched before. Right: all that a new envelope costs."
    headline(figure, title, subtitle, 0.92, 0.86)
    return save(figure, path)


def draw_cost(pictured: dict[str, Any], path: Path, title: str, machine: str) -> Path:
    found = pictured["curve"]
    figure, axes = plt.subplots(figsize=(8, 4.4))
    figure.subplots_adjust(left=0.07, right=0.8, top=0.77, bottom=0.12)
    for name, costs in found["costs"].items():
        colour = BLUE if name.startswith("claim,") else RED if name.startswith("claim_many") else SOFT
        style = (0, (4, 2)) if name.endswith("fresh") else "-"
        axes.plot(found["packets"], costs, color=colour, linestyle=style, linewidth=2, marker="o", markersize=4)
        axes.annotate(
            name,
            (found["packets"][-1], costs[-1]),
            xytext=(9, 0),
            textcoords="offset points",
            va="center",
            color=colour,
            fontsize=9,
            annotation_clip=False,
        )
    plain_axes(axes)
    grid(axes)
    axes.set_xscale("log")
    axes.set_ylim(0)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: power_of_ten(value)))
    axes.xaxis.set_minor_locator(NullLocator())
    label_axes(axes, "packets of the envelope, all of them claimed")
    title_axes(axes, "Nanoseconds a claim")
    subtitle = f"{machine}. Fresh: with all that a new envelope costs. Touched: the claim alone."
    headline(figure, title, subtitle, 0.925, 0.875)
    return save(figure, path)


def draw_latency(pictured: dict[str, Any], path: Path, title: str, machine: str) -> Path:
    """How many claims take longer than so long: both axes in powers of ten, as the tail is what matters."""
    figure, axes = plt.subplots(figsize=(8, 4.6))
    figure.subplots_adjust(left=0.09, right=0.95, top=0.74, bottom=0.11)
    for percent in PERCENTILES.values():
        axes.axhline(1 - percent / 100, color=FAINT, linewidth=0.8)
    for name, times in pictured["tail"].items():
        label, colour, is_left = LATENCIES[name]
        ordered = np.sort(times)
        longer = 1 - np.arange(1, len(ordered) + 1) / (len(ordered) + 1)
        # As many points as can be seen: the first of each step, evenly over the powers of ten.
        kept = np.unique((len(ordered) * (1 - np.logspace(0, -np.log10(len(ordered)), 600))).astype(int))
        kept = kept[kept < len(ordered)]
        axes.plot(ordered[kept], longer[kept], color=colour, linewidth=2, label=label)
        for percent in PERCENTILES.values():
            if (1 - percent / 100) * len(ordered) < 10:
                continue  # fewer than ten claims were longer: that says little
            value = float(np.percentile(times, percent))
            axes.plot(value, 1 - percent / 100, "o", color=colour, markersize=5)
            axes.annotate(
                duration(value),
                (value, 1 - percent / 100),
                xytext=(-5, -11) if is_left else (5, 5),
                textcoords="offset points",
                ha="right" if is_left else "left",
                color=colour,
                fontsize=8,
            )
    plain_axes(axes)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(1e-5, 1)
    axes.yaxis.set_major_locator(FixedLocator([1 - percent / 100 for percent in PERCENTILES.values()]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_yticklabels(PERCENTILES)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: duration(value)))
    axes.xaxis.set_minor_locator(NullLocator())
    label_axes(axes, "time of a call, with one reading of the clock")
    axes.legend(loc="lower left", bbox_to_anchor=(-0.09, 1.0), ncols=2, frameon=False, fontsize=9, labelcolor=INK)
    headline(
        figure,
        title,
        f"{machine}. Another process claims from the same envelope in batches.",
        0.93,
        0.88,
    )
    return save(figure, path)


PICTURES = {
    # file: how it is drawn, of which sections of the table, and its title
    "throughput.png": (draw_throughput, {"throughput", "peers"}, "Claims a second on one envelope"),
    "cost.png": (draw_cost, {"curve"}, "What a claim costs, by the size of its envelope"),
    "latency.png": (draw_latency, {"tail"}, "How long a claim takes, and the slowest"),
}


def draw(pictured: dict[str, Any], folder: Path, facts: dict[str, Any]) -> dict[Path, str]:
    """Draw every picture whose figures are there; return them by their titles."""
    machine = f"{facts['cores']} cores, {facts['processor']}, {facts['python']}"
    return {
        draw_one(pictured, folder / name, title, machine): title
        for name, (draw_one, needed, title) in PICTURES.items()
        if needed <= pictured.keys()
    }
