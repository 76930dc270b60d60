"""The figures of a comparison that differ for more than two classes. They are readable up to 15 classes."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from pneumo.comparison.canvas import TEXT, WIDTH, canvas, label, legend, row_name, short
from pneumo.comparison.content import ConfigurationRow, Confusion, SplitSize
from pneumo.evaluation.plot import INK, MARKERS, SERIES

FEW_CLASSES = 5  # up to so many, two matrices are drawn side by side
MOST_MATRICES = 4  # of more classes, one: a matrix of 15 takes a second to draw


def by_class(rows: Sequence[ConfigurationRow], of_one: str) -> Figure | None:
    """The AUROC of each class with its interval, the configurations below one another; `of_one`: of what."""
    if not rows:
        return None
    names = list(rows[0]["classes"])
    figure, (axes,) = canvas(0.7 + (0.16 + 0.11 * len(rows)) * len(names) + 0.17 * len(rows))
    step = 0.7 / len(rows)
    for number, row in enumerate(rows):
        places = np.arange(len(names)) + (number - (len(rows) - 1) / 2) * step
        scores = [row["classes"][name]["scores"]["auroc"] for name in names]
        colour = SERIES[number % len(SERIES)]
        axes.hlines(
            places, [one["low"] for one in scores], [one["high"] for one in scores], colors=colour,
            linewidth=1.4,
        )  # fmt: skip
        axes.plot(
            [one["value"] for one in scores], places, MARKERS[number % len(MARKERS)], color=colour,
            markersize=4, label=row_name(row),
        )  # fmt: skip
    axes.set_yticks(range(len(names)), [short(name, 24) for name in names], fontsize=TEXT - 1)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    axes.locator_params(axis="x", nbins=5)
    label(axes, f"AUROC, {of_one}")
    legend(figure, axes)
    return figure


def confusions(
    rows: Sequence[ConfigurationRow], matrices: Sequence[list[Confusion]], class_names: Sequence[str]
) -> Figure | None:
    """The matrices of the first runs: counts, and the shares of the true class as colour."""
    cells = [
        (row_name(row, 30), run["seed"], matrix)
        for row, found in zip(rows, matrices, strict=True)
        for run, matrix in zip(row["runs"], found, strict=True)
    ]
    few = len(class_names) <= FEW_CLASSES
    cells = cells[: MOST_MATRICES if few else 1]
    if not cells:
        return None
    columns = min(2, len(cells)) if few else 1
    lines = -(-len(cells) // columns)
    side = 0.42 * len(class_names) + 1.1
    figure, panels = canvas((side + 0.4) * lines, columns=columns, rows=lines)
    figure.set_figwidth(max(WIDTH, (side + 0.4) * columns))
    names = [short(name, 14) for name in class_names]
    ticks = np.arange(len(names)) + 0.5
    for axes in panels[len(cells) :]:
        axes.set_visible(False)
    for axes, (name, seed, matrix) in zip(panels, cells, strict=False):
        counts = np.asarray(matrix)
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        axes.pcolormesh(shares, cmap="Blues", vmin=0, vmax=1)
        axes.invert_yaxis()
        axes.set_aspect("equal")
        for (i, j), count in np.ndenumerate(counts):
            colour = "white" if shares[i, j] > 0.5 else "black"
            text = f"{count}\n{shares[i, j]:.0%}" if count else "0"
            axes.text(j + 0.5, i + 0.5, text, ha="center", va="center", color=colour, fontsize=TEXT - 3)
        axes.set_xticks(ticks, names, rotation=40, ha="right", rotation_mode="anchor", fontsize=TEXT - 2)
        axes.set_yticks(ticks, names, fontsize=TEXT - 2)
        axes.grid(visible=False)
        axes.set_title(f"{name}\nseed {seed}", fontsize=TEXT - 2, color=INK)
    figure.supxlabel("predicted", fontsize=TEXT - 1)
    figure.supylabel("true", fontsize=TEXT - 1)
    return figure


def distribution(splits: Mapping[str, SplitSize] | None) -> Figure | None:
    """Bars of the images by class and split."""
    if not splits:
        return None
    names = list(next(iter(splits.values()))["classes"])
    figure, (axes,) = canvas(0.8 + 0.16 * len(splits) * len(names))
    step = 0.84 / len(splits)
    for number, (split, sizes) in enumerate(splits.items()):
        places = np.arange(len(names)) + (number - (len(splits) - 1) / 2) * step
        values = [sizes["classes"][name] for name in names]
        bars = axes.barh(places, values, 0.9 * step, label=split, color=SERIES[number % len(SERIES)])
        texts = [f"{value:,} ({value / max(1, sizes['images']):.0%})" for value in values]
        axes.bar_label(bars, texts, fontsize=TEXT - 2, color=INK, padding=2)
    axes.set_yticks(range(len(names)), [short(name, 24) for name in names], fontsize=TEXT - 1)
    axes.invert_yaxis()
    axes.margins(x=0.25, y=0.01)  # x: for the text beside the longest bar
    axes.grid(axis="y", visible=False)
    label(axes, "images")
    legend(figure, axes)
    return figure
