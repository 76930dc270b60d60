"""What the figures of a comparison share: a narrow canvas, labels, legends and short names."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pneumo.comparison.content import ConfigurationRow
from pneumo.comparison.words import ranked
from pneumo.evaluation import plot
from pneumo.evaluation.plot import INK, RULE

WIDTH = 4.6  # inches; 331 points, which a phone shows almost at their size
TEXT = 9


def canvas(height: float, columns: int = 1, rows: int = 1, **subplots: Any) -> tuple[Figure, list[Axes]]:
    """A figure of `height` inches and its axes, row by row."""
    size = (WIDTH, height)
    figure, grid = plot.axes_grid(size, rows, columns, points=TEXT - 1, rule=(RULE, 0.7), **subplots)
    for axes in grid:
        axes.tick_params(colors=INK)
        axes.patch.set_alpha(0)
        axes.spines[["left", "bottom"]].set_color(INK)
    return figure, grid


def label(axes: Axes, x: str, y: str = "", title: str = "") -> None:
    """Name the axes."""
    axes.set_xlabel(x, fontsize=TEXT, color=INK)
    axes.set_ylabel(y, fontsize=TEXT, color=INK)
    if title:
        axes.set_title(title, fontsize=TEXT, color=INK, loc="left")


def legend(figure: Figure, axes: Axes) -> None:
    """A legend below the figure, one entry a line."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(
            handles, labels, loc="outside lower center", ncols=1, fontsize=TEXT - 1, frameon=False,
            labelcolor=INK,
        )  # fmt: skip


def short(name: str, limit: int = 34) -> str:
    """`name`, cut to `limit` characters."""
    return name if len(name) <= limit else name[: limit - 1] + "…"


def row_name(row: ConfigurationRow, limit: int = 34) -> str:
    """A row's name in a legend or title: its rank first, so that no two are alike when they are cut."""
    if row["ensemble"]:
        return short(row["name"], limit)
    return short(ranked(row) if row["rank"] else f"(optimistic) {row['name']}", limit)
