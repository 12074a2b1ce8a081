"""How the pictures of the documents look."""

from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, SOFT, FAINT = "#1f2328", "#656d76", "#d8dee4"
RED, BLUE, GREEN, BROWN, GREY = "#c8102e", "#2f6fd0", "#0a7d6f", "#9a5b00", "#57606a"


def plain_axes(axes: Axes) -> None:
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)
    axes.tick_params(which="both", length=0, colors=SOFT, labelsize=8.5)


def label_axes(axes: Axes, horizontal: str, vertical: str = "") -> None:
    axes.set_xlabel(horizontal, color=SOFT, fontsize=9)
    axes.set_ylabel(vertical, color=SOFT, fontsize=9)


def title_axes(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", color=INK, fontsize=10.5, weight="bold", pad=10)


def headline(figure: Figure, title: str, subtitle: str, title_at: float, subtitle_at: float) -> None:
    figure.text(0.03, title_at, title, color=INK, fontsize=14, weight="bold")
    figure.text(0.03, subtitle_at, subtitle, color=SOFT, fontsize=9.5)


def save(figure: Figure, path: Path) -> Path:
    figure.savefig(path, dpi=150, facecolor="white")
    plt.close(figure)
    return path
