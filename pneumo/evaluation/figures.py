"""The figures of one run: arrays in, a matplotlib Figure out.

Each function takes `note`, a line under the figure: synthetic data, an optimistic protocol.
"""

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from pneumo.evaluation import metrics
from pneumo.evaluation.plot import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    SKY,
    UNITS,
    axes_grid,
    unit_square,
    whole_epochs,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 150
TEXT, SMALL = 12, 10  # points

MACRO_UNITS = {**UNITS, "f1": "macro F1 of the classes (0 to 1)"}

LINES: dict[str, tuple[str, dict[str, Any]]] = {
    "train": ("train", {"color": BLUE, "marker": "o", "linestyle": "-"}),
    "val": ("validation", {"color": ORANGE, "marker": "s", "linestyle": "--"}),
    "test": ("test (seen every epoch)", {"color": GREEN, "marker": "^", "linestyle": ":"}),
}


def class_distribution(
    counts: Mapping[str, Mapping[str, int]],
    patients: Mapping[str, int] | None = None,
    note: str | None = None,
) -> "Figure":
    """Bars of the images by split and class; `patients` has the number of patients by split, if known."""
    figure, axes = canvas("Images by split and class", "split", "images", note)
    classes = list(next(iter(counts.values()), {}))
    width = 0.8 / max(1, len(classes))
    for k, name in enumerate(classes):
        places = np.arange(len(counts)) + (k - (len(classes) - 1) / 2) * width
        values = [split.get(name, 0) for split in counts.values()]
        shares = [n / max(1, sum(split.values())) for n, split in zip(values, counts.values(), strict=True)]
        bars = axes.bar(places, values, 0.94 * width, label=name, color=(SKY, ORANGE)[k % 2])
        texts = [f"{n:,}\n{share:.1%}" for n, share in zip(values, shares, strict=True)]
        axes.bar_label(bars, texts, padding=2, fontsize=SMALL)
    people = patients or {}
    ticks = [f"{s}\n{people[s]:,} patients" if s in people else s for s in counts]
    axes.set_xticks(range(len(counts)), ticks)
    axes.margins(y=0.18)  # for the two lines of text above the tallest bar
    axes.grid(axis="x", visible=False)
    axes.legend(fontsize=SMALL)
    return figure


def curve(
    history: Sequence[Mapping[str, Any]],
    metric: str,
    title: str,
    selected_epoch: int | None = None,
    note: str | None = None,
    units: Mapping[str, str] = UNITS,
) -> "Figure":
    """`metric` (loss, accuracy or f1) of each split in `history` by epoch; marks the selected epoch."""
    figure, axes = canvas(title, "epoch", units.get(metric, metric), note)
    for split, (label, style) in LINES.items():
        rows = [row for row in history if row.get(f"{split}/{metric}") is not None]
        if not rows:
            continue
        epochs = [row["epoch"] for row in rows]
        values = [float(row[f"{split}/{metric}"]) for row in rows]
        # A single epoch has no line, only its marker; beyond about 60 epochs markers hide the line.
        size = 8 if len(rows) == 1 else 4 if len(rows) <= 60 else 0
        axes.plot(epochs, values, label=label, linewidth=1.8, markersize=size, **style)
        chosen = [(e, v) for e, v in zip(epochs, values, strict=True) if e == selected_epoch]
        if chosen:
            axes.plot(
                *chosen[0], "o", markersize=13, fillstyle="none", color=style["color"], markeredgewidth=2
            )
    if selected_epoch is not None:
        label = f"selected epoch ({selected_epoch})"
        axes.axvline(selected_epoch, color=GREY, linewidth=1.2, linestyle="-.", label=label, zorder=1)
    if history:
        axes.set_xlim(history[0]["epoch"] - 0.5, history[-1]["epoch"] + 0.5)
    whole_epochs(axes)
    legend_above(axes)
    return figure


def confusion_matrix(
    matrix: ArrayLike, class_names: tuple[str, ...], title: str, note: str | None = None
) -> "Figure":
    """Counts and shares of the true class (rows) for `matrix` [2, 2] as `metrics.confusion` gives it."""
    counts = np.asarray(matrix)
    totals = counts.sum(axis=1, keepdims=True)
    shares = counts / np.maximum(totals, 1)
    figure, axes = canvas(
        title, "predicted class (shares are of the true class)", "true class", note, size=(6.4, 5.6)
    )
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (i, j), count in np.ndenumerate(counts):
        text = f"{count:,}\n{shares[i, j]:.1%}" if totals[i, 0] else f"{count:,}\n-"
        color = "white" if shares[i, j] > 0.5 else "black"
        axes.text(j, i, text, ha="center", va="center", color=color, fontsize=TEXT + 5)
    axes.set_xticks((0, 1), class_names)
    rows = [f"{name}\n({total:,} images)" for name, total in zip(class_names, totals[:, 0], strict=True)]
    axes.set_yticks((0, 1), rows)
    axes.grid(visible=False)
    return figure


def roc(labels: ArrayLike, probabilities: ArrayLike, title: str, note: str | None = None) -> "Figure":
    """Receiver operating characteristic, with the operating point at probability 0.5."""
    from sklearn.metrics import roc_curve

    truth, chances = metrics.checked(labels, probabilities)
    at = metrics.scores(truth, chances)
    x, y = "false positive rate (1 - specificity)", "true positive rate (recall)"
    figure, axes = canvas(title, x, y, note, size=(6.2, 6.0))
    if np.isnan(at["auroc"]):
        return undefined(figure, axes)
    false_positive, true_positive, _ = roc_curve(truth, chances, drop_intermediate=False)
    axes.plot((0, 1), (0, 1), color=GREY, linestyle="--", linewidth=1.2, label="chance (0.5)")
    axes.plot(false_positive, true_positive, color=BLUE, linewidth=2, label=f"AUROC {at['auroc']:.4f}")
    _operating_point(axes, 1 - at["specificity"], at["recall"])
    axes.legend(fontsize=SMALL, loc="lower right")
    unit_square(axes, margin=0.01)
    return figure


def precision_recall(
    labels: ArrayLike, probabilities: ArrayLike, title: str, note: str | None = None
) -> "Figure":
    """Precision against recall, as steps; scikit-learn's average precision is the area below them."""
    from sklearn.metrics import precision_recall_curve

    truth, chances = metrics.checked(labels, probabilities)
    at = metrics.scores(truth, chances)
    x, y = "recall (true positive rate)", "precision (positive predictive value)"
    figure, axes = canvas(title, x, y, note, size=(6.2, 6.0))
    if np.isnan(at["auprc"]):
        return undefined(figure, axes)
    precision, recall, _ = precision_recall_curve(truth, chances)
    base = float(truth.mean())
    axes.axhline(base, color=GREY, linestyle="--", linewidth=1.2, label=f"chance (prevalence {base:.3f})")
    area = f"average precision {at['auprc']:.4f}"
    axes.step(recall, precision, where="post", color=BLUE, linewidth=2, label=area)
    _operating_point(axes, at["recall"], at["precision"])
    axes.legend(fontsize=SMALL, loc="lower left")
    unit_square(axes, margin=0.01)
    return figure


def calibration(labels: ArrayLike, probabilities: ArrayLike, title: str, note: str | None = None) -> "Figure":
    """Reliability diagram over the histogram of the probabilities, in the 15 bins of the ECE."""
    images, mean, share = metrics.calibration_bins(labels, probabilities)
    error = metrics.calibration_error(labels, probabilities)
    figure, axes = canvas(title, "", "observed share of positives", note, size=(6.4, 7.2), rows=2)
    below = figure.axes[1]
    axes.plot((0, 1), (0, 1), color=GREY, linestyle="--", linewidth=1.2, label="perfect")
    seen = images > 0
    text = f"bin means (ECE {error:.4f})"
    axes.plot(mean[seen], share[seen], color=BLUE, marker="o", markersize=7, linewidth=1.2, label=text)
    low, high = wilson(share[seen], images[seen])
    axes.vlines(mean[seen], low, high, color=BLUE, alpha=0.35, linewidth=5, label="95 % interval")
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.03, 1.03)
    legend_above(axes)
    histogram(below, images, "predicted probability of the positive class")
    return figure


def histogram(axes: "Axes", images: metrics.Ints, xlabel: str) -> None:
    """The numbers of images in the bins of the ECE, as bars."""
    edges = np.linspace(0, 1, metrics.ECE_BINS + 1)
    bars = axes.bar(edges[:-1], images, 1 / metrics.ECE_BINS, align="edge", color=SKY, edgecolor="white")
    axes.bar_label(bars, [f"{n}" if n else "" for n in images], fontsize=SMALL - 1, padding=1)
    # Confident models put hundreds of images into the outer bins and a few between. A log scale shows both.
    axes.set_yscale("log")
    axes.set_ylim(0.7, 3 * max(1, int(images.max())))
    axes.set_ylabel("images (log scale)", fontsize=TEXT)
    axes.set_xlabel(xlabel, fontsize=TEXT)


def canvas(
    title: str,
    xlabel: str,
    ylabel: str,
    note: str | None,
    size: tuple[float, float] = (8.0, 5.0),
    rows: int = 1,
) -> tuple["Figure", "Axes"]:
    """A figure of `size` inches with a title and labels on its first axes, and `note` underneath."""
    heights = {"height_ratios": (3, 1)} if rows == 2 else {}
    figure, (axes, *_) = axes_grid(
        size, rows, points=SMALL + 1, rule=("#dddddd", 0.8), dpi=DPI, sharex=rows > 1, gridspec_kw=heights
    )
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1)  # type: ignore[union-attr, call-arg]
    axes.set_title(title, fontsize=TEXT + 2)
    axes.set_xlabel(xlabel, fontsize=TEXT)
    axes.set_ylabel(ylabel, fontsize=TEXT)
    if note:  # supxlabel, not text: the layout leaves space for it
        figure.supxlabel(
            textwrap.fill(note, int(13 * size[0])), fontsize=SMALL - 1, color=GREY, style="italic"
        )
    return figure, axes


def legend_above(axes: "Axes") -> None:
    """A legend above the axes: accuracy curves and intervals leave no free corner inside."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=SMALL, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)
        axes.set_title(axes.get_title(), fontsize=TEXT + 2, pad=30)


def wilson(share: metrics.Floats, images: metrics.Ints) -> tuple[metrics.Floats, metrics.Floats]:
    """Wilson's (1927) 95 % interval of each bin's share: a bin of ten images says little."""
    z = 1.959964
    middle = (share + z**2 / (2 * images)) / (1 + z**2 / images)
    half = z / (1 + z**2 / images) * np.sqrt(share * (1 - share) / images + z**2 / (4 * images**2))
    return middle - half, middle + half


def _operating_point(axes: "Axes", x: float, y: float) -> None:
    label = f"at probability 0.5 ({x:.3f}, {y:.3f})"
    axes.plot(x, y, "D", color=ORANGE, markersize=9, label=label, clip_on=False, zorder=5)


def undefined(figure: "Figure", axes: "Axes") -> "Figure":
    text = "undefined: only one class is present"
    axes.text(0.5, 0.5, text, ha="center", va="center", fontsize=TEXT, transform=axes.transAxes)
    return figure
