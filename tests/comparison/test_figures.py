"""What the comparison's figures say. How they look was judged by eye."""

import pytest
from matplotlib.figure import Figure
from support.comparison_runs import candidate, candidates, finished

from pneumo.comparison import figures
from pneumo.comparison.content import Comparison
from pneumo.comparison.words import caption

HISTORY = [
    {"epoch": e, **{f"{s}/{m}": e / 9 for s in ("train", "val") for m in ("accuracy", "f1", "loss")}}
    for e in range(1, 5)
]


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    runs = [*candidates(), candidate(protocol="test_selected", history=HISTORY)]
    for run in runs:
        run.history = HISTORY
    return finished(runs)


@pytest.fixture(scope="module")
def drawn(comparison: Comparison) -> dict[str, Figure]:
    return figures.draw(comparison)


def labels(figure: Figure) -> list[str]:
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def test_every_figure_is_drawn_where_there_is_data(drawn: dict[str, Figure]) -> None:
    assert list(drawn) == [
        "forest",
        "differences",
        "roc",
        "precision_recall",
        "calibration",
        "decision_curve",
        "curves_loss",
        "curves_accuracy",
        "curves_f1",
        "confusion_test",
        "confusion_validation",
        "class_distribution",
    ]


def test_figures_without_data_are_left_out() -> None:
    alone = finished([candidate()])
    alone["splits"] = None
    assert not {"differences", "curves_loss", "class_distribution"} & figures.draw(alone).keys()


def test_the_forest_names_every_row(drawn: dict[str, Figure], comparison: Comparison) -> None:
    ticks = [tick.get_text() for tick in drawn["forest"].axes[0].get_yticklabels()]
    assert ticks == ["1. resnet18", "2. resnet50", "(optimistic) resnet18", "all 4 runs averaged"]
    diamonds = [line for line in drawn["forest"].axes[0].lines if line.get_marker() == "D"]
    ensembles = [row["scores"]["auroc"]["value"] for row in comparison["ensembles"]]
    assert [line.get_xdata()[0] for line in diamonds] == ensembles


def test_legends_begin_with_the_rank_and_differences_carry_names(drawn: dict[str, Figure]) -> None:
    runs = [
        candidate(seed=0, config={"optim.lr": lr, "augment.name": "a_very_long_name_of_an_option"})
        for lr in (0.0001, 0.0002, 0.0003)
    ]
    for run, name in zip(runs, "abc", strict=True):
        run.run_id = name
    several = finished(runs, draws=50)
    found = labels(figures.draw(several)["roc"])[:3]
    assert len(set(found)) == 3 and [text[:3] for text in found] == [
        f"{row['rank']}. " for row in several["configurations"]
    ]
    (tick,) = (tick.get_text() for tick in drawn["differences"].axes[0].get_yticklabels())
    assert tick == "resnet18\nminus resnet50"


def test_the_figure_of_differences_says_how_many_pairs_it_shows() -> None:
    runs = [candidate(seed=0, config={"optim.lr": n}, run_id=str(n)) for n in range(7)]
    many = finished(runs, draws=50)
    assert len(many["pairs"]) == 21
    assert len(figures.draw(many)["differences"].axes[0].get_yticklabels()) == 15
    assert caption("differences", many).startswith("The 15 largest of 21 paired differences in AUROC")
    few = caption("differences", finished(candidates(), draws=50))
    assert few.startswith("Paired differences in AUROC")


def test_curves_carry_their_area(drawn: dict[str, Figure], comparison: Comparison) -> None:
    first = comparison["configurations"][0]["scores"]
    assert f"1. resnet18 ({first['auroc']['value']:.3f})" in labels(drawn["roc"])
    assert f"1. resnet18 ({first['auprc']['value']:.3f})" in labels(drawn["precision_recall"])
    assert f"1. resnet18 (ECE {first['ece']['value']:.3f})" in labels(drawn["calibration"])
    line = drawn["roc"].axes[0].lines[0]
    assert line.get_ydata().tolist() == comparison["configurations"][0]["curves"]["roc"]["value"]


def test_the_difference_is_marked_at_its_value(drawn: dict[str, Figure], comparison: Comparison) -> None:
    entry = comparison["pairs"][0]["scores"]["auroc"]
    recipes, networks, point, zero = drawn["differences"].axes[0].lines
    assert entry["with_seeds"] is not None
    assert list(recipes.get_xdata()) == [entry["with_seeds"]["low"], entry["with_seeds"]["high"]]
    assert list(networks.get_xdata()) == [entry["low"], entry["high"]]
    assert list(point.get_xdata()) == [entry["difference"]] and set(zero.get_xdata()) == {0}


def test_epochs_are_averaged_over_seeds(drawn: dict[str, Figure]) -> None:
    panels = drawn["curves_accuracy"].axes
    assert [axes.get_title(loc="left") for axes in panels] == ["training", "validation"]
    assert panels[0].lines[0].get_ydata().tolist() == pytest.approx([e / 9 for e in range(1, 5)])


def test_matrices_have_counts_and_shares(drawn: dict[str, Figure], comparison: Comparison) -> None:
    (tn, fp), _ = comparison["configurations"][0]["confusion"][0]
    texts = [text.get_text() for text in drawn["confusion_test"].axes[0].texts]
    assert texts[0] == f"{tn}\n{tn / (tn + fp):.1%}" and len(texts) == 4


def test_long_names_are_cut() -> None:
    assert figures.short("a" * 34) == "a" * 34
    assert figures.short("a" * 35) == "a" * 33 + "…"


def test_a_png_is_written_on_white(drawn: dict[str, Figure]) -> None:
    assert figures.png(drawn["forest"]).startswith(b"\x89PNG")


def test_the_decision_curve_is_drawn_beside_treat_all_and_none(
    drawn: dict[str, Figure], comparison: Comparison
) -> None:
    treat_all, none, first, *_ = drawn["decision_curve"].axes[0].lines
    assert list(treat_all.get_ydata()) == comparison["decision"]["treat_all"]
    assert set(none.get_ydata()) == {0}
    assert list(first.get_ydata()) == comparison["configurations"][0]["net_benefit"]
    assert labels(drawn["decision_curve"])[:3] == ["treat all", "treat none", first.get_label()]
