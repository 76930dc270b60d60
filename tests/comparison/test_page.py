"""The page and the files beside it, from a comparison in memory."""

import base64
import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.comparison_runs import candidate, candidates, finished
from support.images import picture, save

from pneumo.comparison import figures, page
from pneumo.comparison.content import Comparison
from pneumo.data import phantom
from pneumo.data.settings import PhantomSettings
from pneumo.text import finite


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    return finished([*candidates(), candidate(protocol="test_selected")])


@pytest.fixture(scope="module")
def written(comparison: Comparison, tmp_path_factory: pytest.TempPathFactory) -> page.Page:
    return page.write(tmp_path_factory.mktemp("page"), comparison, {})


def test_hostile_names_do_not_become_html() -> None:
    run = candidate(name="<img src=x onerror=alert(1)>", config={"model.name": "<script>alert(1)</script>"})
    run.test.paths[:] = [f"<b>{path}" for path in run.test.paths]
    found = finished([run], experiment="</title><script>", data="csv")
    text = page.html(found, figures.render(found), {})
    assert text.count("<script") == 1 and "<script>alert" not in text  # the page's own
    assert "onerror=alert(1)>" not in text.replace("&gt;", "") and "<b>test" not in text


def test_the_json_is_the_comparison_itself(written: page.Page, comparison: Comparison) -> None:
    found = json.loads((written.folder / "comparison.json").read_text())
    assert list(found) == list(comparison)
    assert found["configurations"][0]["scores"] == finite(comparison["configurations"][0]["scores"])


def test_scores_csv_has_a_line_for_each_score(written: page.Page, comparison: Comparison) -> None:
    rows = list(csv.DictReader((written.folder / "scores.csv").open()))
    first = comparison["configurations"][0]["scores"]
    assert len(rows) == len(first) * 6  # two configurations, three ensembles, one optimistic
    assert [row["score"] for row in rows[: len(first)]] == list(first)
    assert float(rows[0]["low"]) == first["accuracy"]["low"] and rows[0]["seeds"] == "0 1"
    assert [float(value) for value in rows[0]["per_run"].split()] == first["accuracy"]["per_run"]
    assert (rows[-1]["rank"], rows[-1]["protocol"], rows[-1]["sd"]) == ("", "test_selected", "")


def test_pairs_csv_has_a_line_for_each_score(written: page.Page, comparison: Comparison) -> None:
    rows = list(csv.DictReader((written.folder / "pairs.csv").open()))
    (pair,) = comparison["pairs"]
    assert len(rows) == len(pair["scores"]) and rows[3]["score"] == "sensitivity"
    entry = pair["scores"]["accuracy"]
    assert (rows[0]["first"], rows[0]["second"]) == ("resnet18", "resnet50")
    assert (float(rows[0]["p_holm"]), float(rows[0]["low_seeds"])) == (
        entry["p_holm"],
        entry["with_seeds"]["low"],
    )


def test_the_terminal_has_the_ranking_the_answer_and_the_warnings(written: page.Page) -> None:
    lines = written.terminal.splitlines()
    assert lines[0].split()[:3] == ["rank", "configuration", "seeds"]
    assert lines[2].split()[:2] == ["1", "resnet18"]
    assert "test_selected OPTIMISTIC, not ranked" in written.terminal
    answer, warned = lines[-2:]
    assert answer.startswith("Best by validation") and "It has a higher AUROC than resnet50" in answer
    assert warned == "Warnings (the page says more): Few patients. Optimistic runs." and lines[-3] == ""


def test_every_file_is_listed_and_written(written: page.Page) -> None:
    on_disk = {str(path.relative_to(written.folder)) for path in written.folder.rglob("*") if path.is_file()}
    assert on_disk == set(written.files) >= {"index.html", "pairs.csv", "figures/forest.png"}


def test_pictures_are_small_and_never_from_elsewhere(comparison: Comparison, tmp_path: Path) -> None:
    root = tmp_path / "images"
    first, second, third = comparison["mistakes"][:3]
    save(picture(0, 1, height=900, width=600), root / first["path"])
    (root / second["path"]).parent.mkdir(parents=True, exist_ok=True)
    (root / second["path"]).write_bytes(b"not an image")
    save(picture(0, 2), tmp_path / "secret.jpeg")
    outside = third | {"path": "../secret.jpeg"}
    found = page.pictures([first, second, outside], root)  # type: ignore[list-item]
    assert list(found) == [first["path"]]
    with Image.open(io.BytesIO(base64.b64decode(found[first["path"]].partition(",")[2]))) as image:
        assert max(image.size) == page.PICTURE_PIXELS
    assert page.pictures([first], None) == {}


def test_mistakes_of_the_synthetic_set_are_drawn_again(comparison: Comparison) -> None:
    settings = PhantomSettings(train_patients=12, test_patients=10)
    path = str(phantom.table(settings)["path"].iloc[-1])
    mistake = comparison["mistakes"][0] | {"path": path}
    (found,) = page.pictures([mistake], None, settings).values()  # type: ignore[list-item]
    with Image.open(io.BytesIO(base64.b64decode(found.partition(",")[2]))) as image:
        drawn = Image.fromarray(phantom.render(path, settings))
        drawn.thumbnail((page.PICTURE_PIXELS, page.PICTURE_PIXELS))
        assert image.size == drawn.size
        assert np.abs(np.asarray(image, float) - np.asarray(drawn, float)).mean() < 8  # JPEG
    stranger = mistake | {"path": "test/NORMAL/IM-1.jpeg"}
    assert page.pictures([stranger], None, settings) == {}  # type: ignore[list-item]
