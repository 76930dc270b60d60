"""What a figure says: labels, lines, counts. How it looks was judged by eye."""

import subprocess
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure

from pneumo.evaluation import figures, metrics, plot

NAMES = ("NORMAL", "PNEUMONIA")


def history(epochs: int, test: bool = False) -> list[dict[str, float]]:
    splits = ("train", "val", "test") if test else ("train", "val")
    return [
        {"epoch": e, **{f"{s}/{m}": (k + 1) / (e + 1) for k, s in enumerate(splits) for m in plot.UNITS}}
        for e in range(1, epochs + 1)
    ]


def every_figure() -> dict[str, Figure]:
    rng = np.random.default_rng(0)
    labels = np.array([0, 1] * 50)
    chances = np.clip(labels * 0.4 + rng.random(100) * 0.6, 0, 1)
    counts = {"train": {"NORMAL": 1214, "PNEUMONIA": 3495}, "test": {"NORMAL": 234, "PNEUMONIA": 390}}
    return {
        "classes": figures.class_distribution(counts, {"test": 428}),
        "curve": figures.curve(history(4), "loss", "Loss"),
        "confusion": figures.confusion_matrix([[3, 1], [0, 2]], NAMES, "Confusion"),
        "roc": figures.roc(labels, chances, "ROC"),
        "pr": figures.precision_recall(labels, chances, "PR"),
        "calibration": figures.calibration(labels, chances, "Calibration"),
    }


@pytest.mark.parametrize("name", ["classes", "curve", "confusion", "roc", "pr", "calibration"])
def test_axes_are_labelled_and_the_text_is_legible(name: str) -> None:
    figure = every_figure()[name]
    assert figure.dpi == figures.DPI == 150
    first, last = figure.axes[0], figure.axes[-1]
    assert first.get_title() and first.get_ylabel() and last.get_xlabel() and last.get_ylabel()
    figure.canvas.draw()
    texts = [t for axes in figure.axes for t in [*axes.texts, *axes.get_xticklabels(), axes.title]]
    assert min(text.get_fontsize() for text in texts) >= 9


def test_class_distribution_has_counts_shares_and_patients() -> None:
    axes = every_figure()["classes"].axes[0]
    assert {t.get_text() for t in axes.texts} == {"1,214\n25.8%", "3,495\n74.2%", "234\n37.5%", "390\n62.5%"}
    assert [t.get_text() for t in axes.get_xticklabels()] == ["train", "test\n428 patients"]


@pytest.mark.parametrize("metric", plot.UNITS)
def test_curve_has_a_line_a_split_and_marks_the_epoch(metric: str) -> None:
    rows = history(5, test=True)
    axes = figures.curve(rows, metric, "Title", selected_epoch=3).axes[0]
    lines = {line.get_label(): line for line in axes.lines}
    for split, label in (("train", "train"), ("val", "validation"), ("test", "test (seen every epoch)")):
        assert lines[label].get_xdata().tolist() == [1, 2, 3, 4, 5]
        assert lines[label].get_ydata().tolist() == [row[f"{split}/{metric}"] for row in rows]
    assert set(lines["selected epoch (3)"].get_xdata()) == {3}
    legend = axes.get_legend()
    assert legend is not None and len(legend.get_texts()) == 4
    assert len({line.get_color() for line in lines.values() if line.get_label()[0] != "_"}) == 4


def test_curve_without_test_shows_both_splits_only() -> None:
    legend = figures.curve(history(5), "f1", "F1", selected_epoch=2).axes[0].get_legend()
    assert legend is not None
    assert [t.get_text() for t in legend.get_texts()] == ["train", "validation", "selected epoch (2)"]


def test_a_single_epoch_is_a_visible_marker() -> None:
    axes = figures.curve(history(1), "accuracy", "Accuracy").axes[0]
    assert all(line.get_marker() in "os" and line.get_markersize() >= 8 for line in axes.lines)
    low, high = axes.get_xlim()
    assert low < 1 < high
    assert [tick for tick in axes.get_xticks() if low <= tick <= high] == [1]


def test_curve_leaves_out_epochs_without_the_figure() -> None:
    rows = history(4)
    del rows[1]["val/loss"]
    line = next(x for x in figures.curve(rows, "loss", "Loss").axes[0].lines if x.get_label() == "validation")
    assert line.get_xdata().tolist() == [1, 3, 4]
    assert not figures.curve([], "loss", "Loss").axes[0].lines


def test_confusion_matrix_holds_counts_and_row_percentages() -> None:
    axes = figures.confusion_matrix([[168, 66], [45, 1345]], NAMES, "Confusion").axes[0]
    cells = {t.get_position(): t.get_text() for t in axes.texts}  # (column, row)
    assert cells == {
        (0, 0): "168\n71.8%",
        (1, 0): "66\n28.2%",
        (0, 1): "45\n3.2%",
        (1, 1): "1,345\n96.8%",
    }
    assert [t.get_text() for t in axes.get_xticklabels()] == list(NAMES)
    assert [t.get_text() for t in axes.get_yticklabels()] == [
        "NORMAL\n(234 images)",
        "PNEUMONIA\n(1,390 images)",
    ]
    absent = figures.confusion_matrix([[0, 0], [1, 1]], NAMES, "Confusion").axes[0]
    assert [t.get_text() for t in absent.texts][:2] == ["0\n-", "0\n-"]


def test_roc_and_precision_recall_show_area_and_operating_point() -> None:
    labels, chances = np.array([0, 0, 1, 1]), np.array([0.1, 0.6, 0.4, 0.9])
    for draw, label, point in (
        (figures.roc, "AUROC 0.7500", (0.5, 0.5)),
        (figures.precision_recall, "average precision 0.8333", (0.5, 0.5)),
    ):
        lines = {line.get_label(): line for line in draw(labels, chances, "Title").axes[0].lines}
        assert label in lines
        marked = next(line for name, line in lines.items() if name.startswith("at probability 0.5"))
        assert (marked.get_xdata()[0], marked.get_ydata()[0]) == point


def test_one_class_is_shown_as_undefined() -> None:
    for draw in (figures.roc, figures.precision_recall):
        assert "only one class" in draw([1, 1], [0.2, 0.8], "Title").axes[0].texts[0].get_text()
    assert figures.calibration([1, 1], [0.2, 0.8], "Title").axes[0].lines


def test_calibration_shows_bins_histogram_and_ece() -> None:
    labels, chances = np.array([0, 0, 0, 1, 1, 0]), np.array([0.05, 0.05, 0.5, 0.5, 0.95, 1.0])
    above, below = figures.calibration(labels, chances, "Calibration").axes
    images, mean, share = metrics.calibration_bins(labels, chances)
    line = next(x for x in above.lines if str(x.get_label()).startswith("bin means (ECE 0.1750)"))
    assert line.get_xdata() == pytest.approx(mean[images > 0])
    assert line.get_ydata() == pytest.approx(share[images > 0])
    assert [bar.get_height() for bar in below.patches] == images.tolist()


def test_wilson_interval_of_a_known_case() -> None:
    # Newcombe 1998, table I: 81 of 263 gives .2553 to .3662; none of 20 gives 0 to .1611.
    low, high = figures.wilson(np.array([81 / 263, 0.0]), np.array([263, 20]))
    assert low == pytest.approx([0.2553, 0], abs=5e-5)
    assert high == pytest.approx([0.3662, 0.1611], abs=5e-5)


def test_a_note_is_written_below_the_figure() -> None:
    note = "Synthetic images: these figures say nothing about real chest X-rays."
    said = figures.curve(history(2), "loss", "Loss", note=note).get_supxlabel()
    assert said.replace("\n", " ") == note
    assert not figures.curve(history(2), "loss", "Loss").get_supxlabel()


def test_no_pyplot_and_no_heavy_import_before_drawing() -> None:
    code = (
        "import sys\n"
        "from pneumo.evaluation import figures, metrics, plot, run_report\n"
        "assert not {'matplotlib', 'sklearn', 'torch'} & set(sys.modules)\n"
        "figure = figures.curve([{'epoch': 1, 'train/loss': 1.0}], 'loss', 'Loss')\n"
        "figure.savefig('/dev/null', format='png')\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
