"""From runs in a real SQLite store to the page, every number recomputed without this project."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from recompute import recompute
from support.comparison_runs import make, split
from support.images import picture, save

from pneumo import UserError
from pneumo.compare import CompareConfig, Images, _address, _show_runs, compare, main
from pneumo.comparison.page import Page
from pneumo.evaluation.predictions import predictions_csv
from pneumo.tracking.reading import Reader
from pneumo.tracking.settings import TrackingSettings

DRAWS = 60


@dataclass
class Store:
    uri: str
    root: Path

    def compare(self, output: str = "page", **keys: object) -> Page:
        tracking = TrackingSettings(uri=self.uri, experiment=str(keys.pop("experiment", "pneumo")))
        settings = {"draws": DRAWS, "latency": False, "output": str(self.root / output)} | keys
        return compare(CompareConfig(tracking=tracking, **settings))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def store(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Six good runs of two models in a sweep, and one run of each kind that must stay out."""
    root = tmp_path_factory.mktemp("store")
    shutil.copy(empty_store, root / "mlflow.db")
    uri = f"sqlite:///{root}/mlflow.db"
    images = root / "images"
    for number, path in enumerate(split("test", 0, 1.0).paths):
        save(picture(number % 2, number), images / path)
    for model in ("resnet18", "densenet121"):
        for seed in (0, 1, 2):
            make(root / "outputs", uri, model, seed, sweep_id="architectures-1", data_root=str(images))
    make(root / "outputs", uri, "resnet18", 0, protocol="test_selected")
    make(root / "outputs", uri, "resnet50", 0, digest="e" * 64)
    make(root / "outputs", uri, "resnet50", 1, known=False)
    make(root / "outputs", uri, "resnet50", 2, without="predictions/test.csv")
    make(root / "outputs", uri, "resnet50", 3, status="FAILED")
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("pneumo")
    assert experiment
    tags = {"pneumo.sweep": "architectures-1", "pneumo.kind": "sweep"}
    client.create_run(experiment.experiment_id, tags=tags, run_name="architectures")
    return Store(uri, root)


@pytest.fixture(scope="module")
def page(store: Store) -> Page:
    return store.compare()


@pytest.fixture(scope="module")
def result(page: Page) -> dict:
    return json.loads((page.folder / "comparison.json").read_text())


def test_every_number_is_recomputed_by_an_independent_script(page: Page, store: Store) -> None:
    done = recompute(page.folder / "comparison.json", store.root / "mlartifacts")
    assert done.count > 1000
    assert done.largest < 1e-9, done.where


def test_seeds_make_one_row_whose_spread_is_kept_apart(result: dict) -> None:
    rows = result["configurations"]
    assert [(row["name"], row["seeds"], row["rank"]) for row in rows] == [
        ("resnet18", [0, 1, 2], 1),
        ("densenet121", [0, 1, 2], 2),
    ]
    entry = rows[0]["scores"]["accuracy"]
    assert entry["value"] == pytest.approx(np.mean(entry["per_run"]))
    assert entry["sd"] == pytest.approx(np.std(entry["per_run"], ddof=1))
    assert entry["low"] < entry["value"] < entry["high"]
    names = [row["name"] for row in result["ensembles"]]
    assert names == [
        "resnet18: its 3 seeds averaged",
        "densenet121: its 3 seeds averaged",
        "all 6 runs averaged",
    ]


def test_the_cost_of_training_is_the_runs_own(result: dict) -> None:
    for row in result["configurations"]:  # mean of three seeds, of each the median of its epochs
        cost = row["cost"]
        assert (cost["images_per_s"], cost["epoch_s"], cost["peak_memory_mib"]) == (91, 50, 2001)


@pytest.mark.usefixtures("blank_page")
def test_an_unusual_last_epoch_does_not_decide_the_cost(empty_store: Path, tmp_path: Path) -> None:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    store = Store(f"sqlite:///{tmp_path}/mlflow.db", tmp_path)
    make(tmp_path / "outputs", store.uri, slow_last_epoch=True)
    written = store.compare(upload=False)
    (row,) = json.loads((written.folder / "comparison.json").read_text())["configurations"]
    assert row["cost"]["epoch_s"] == 50


def test_what_must_not_be_mixed_is_left_out_with_the_reason(page: Page, result: dict) -> None:
    said = {entry["run"]: entry["reason"] for entry in result["left_out"]}
    assert said.keys() == {f"resnet50-{seed}-patient_val" for seed in range(4)}
    assert "another test set (data digest eeeeeeeeeeee)" in said["resnet50-0-patient_val"]
    assert "name no patients" in said["resnet50-1-patient_val"]
    assert "predictions/test.csv missing" in said["resnet50-2-patient_val"]
    assert said["resnet50-3-patient_val"] == "not finished: failed"
    text = (page.folder / "index.html").read_text()
    assert all(name in text for name in said) and "4 runs left out." in page.terminal


def test_runs_selected_on_test_are_marked_and_never_ranked(page: Page, result: dict) -> None:
    (row,) = result["optimistic"]
    assert (row["protocol"], row["rank"]) == ("test_selected", None)
    assert row["id"] not in {pair[side] for pair in result["pairs"] for side in ("first", "second")}
    assert all(run["run_id"] != row["runs"][0]["run_id"] for e in result["ensembles"] for run in e["runs"])
    assert "OPTIMISTIC, not ranked" in page.terminal
    assert "What choosing on test adds" in (page.folder / "index.html").read_text()


def test_the_verdict_is_what_the_intervals_allow(result: dict) -> None:
    """resnet18's logits lie twice as far apart as densenet121's."""
    (pair,) = result["pairs"]
    assert pair["verdicts"]["auroc"].startswith("resnet18 has a higher AUROC than densenet121 by 0.")
    seeds = pair["scores"]["auroc"]["with_seeds"]
    assert seeds["p_holm"] < 0.05 and seeds["low"] > 0
    assert seeds["low"] < pair["scores"]["auroc"]["low"]


def test_the_page_needs_nothing_else(page: Page) -> None:
    text = (page.folder / "index.html").read_text()
    outside = re.sub(r'xmlns(:\w+)?="[^"]*"|<a href="http://127[^"]*"', "", text)  # a link loads nothing
    assert not re.search(r'(?:src|href|url\()\s*=?\s*["\']?(?:https?:)?//', outside)
    assert text.count("<script") == 1 and "<script src" not in text
    assert set(page.files) >= {"index.html", "comparison.json", "scores.csv", "pairs.csv", "figures/roc.png"}
    assert all((page.folder / name).stat().st_size > 100 for name in page.files)
    rows = list(csv.DictReader((page.folder / "scores.csv").open()))
    assert float(rows[0]["low"]) < float(rows[0]["value"]) < float(rows[0]["high"])


class Outline(HTMLParser):
    """Headings, ids and what accessibility depends on."""

    def __init__(self) -> None:
        super().__init__()
        self.headings: list[int] = []
        self.ids: list[str] = []
        self.tables = self.captions = self.scrolls = 0
        self.images: list[dict[str, str | None]] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        held = dict(attributes)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if "id" in held:
            self.ids.append(str(held["id"]))
        self.tables += tag == "table"
        self.captions += tag == "caption"
        self.scrolls += "scroll" in str(held.get("class")).split() and held.get("tabindex") == "0"
        if tag in ("img", "svg"):
            self.images.append(held)


def test_the_page_is_built_for_keyboards_and_screen_readers(page: Page) -> None:
    text = (page.folder / "index.html").read_text()
    outline = Outline()
    outline.feed(text)
    assert outline.headings[0] == 1 and outline.headings.count(1) == 1
    steps = zip(outline.headings, outline.headings[1:], strict=False)
    assert all(after <= before + 1 for before, after in steps)
    assert len(outline.ids) == len(set(outline.ids))
    assert outline.tables == outline.captions and outline.scrolls > 5
    assert len(outline.images) >= 19
    assert all(image.get("alt") or image.get("aria-label") for image in outline.images)
    assert '<html lang="en">' in text and 'href="#main"' in text
    links = set(re.findall(r'<a href="#([^"]+)"', text))
    assert links <= set(outline.ids)


def test_the_mistakes_are_shown_with_their_images(page: Page, result: dict) -> None:
    text = (page.folder / "index.html").read_text()
    assert text.count("data:image/jpeg;base64,") == len(result["mistakes"]) == 10
    sure = [abs(entry["probability"] - 0.5) for entry in result["mistakes"]]
    assert sure == sorted(sure, reverse=True)
    assert all((entry["probability"] >= 0.5) != entry["label"] for entry in result["mistakes"])


@pytest.mark.usefixtures("blank_page")
def test_a_sweep_is_compared_alone_and_its_parent_gets_the_page(store: Store) -> None:
    page = store.compare("sweep", sweep_id="architectures-1", draws=100)
    found = json.loads((page.folder / "comparison.json").read_text())
    assert len(found["configurations"]) == 2 and not found["optimistic"] and not found["left_out"]
    client = MlflowClient(store.uri)
    experiment = client.get_experiment_by_name("pneumo")
    assert experiment
    (parent,) = client.search_runs([experiment.experiment_id], "tags.`pneumo.kind` = 'sweep'")
    held = {entry.path for entry in client.list_artifacts(parent.info.run_id, "comparison")}
    assert {"comparison/index.html", "comparison/comparison.json", "comparison/figures"} <= held
    with pytest.raises(UserError, match=r"sweep_id=nothing is not in experiment pneumo, .*architectures-1"):
        store.compare(sweep_id="nothing")


@pytest.mark.usefixtures("blank_page")
def test_a_sweep_that_shares_jobs_with_another_is_compared_whole(store: Store) -> None:
    """Jobs that it skipped, because another sweep had made them, carry the other sweep's tag."""
    client = MlflowClient(store.uri)
    experiment = client.get_experiment_by_name("pneumo")
    assert experiment
    runs = client.search_runs([experiment.experiment_id], "tags.`pneumo.sweep` = 'architectures-1'")
    marks = [run.data.tags["pneumo.fingerprint"] for run in runs if "pneumo.fingerprint" in run.data.tags]
    jobs = [{"fingerprint": mark, "overrides": [f"seed={n}"]} for n, mark in enumerate(marks[:2])]
    jobs.append({"fingerprint": "gone", "overrides": ["model=resnet18", "seed=9"]})
    jobs.append({"fingerprint": None, "overrides": ["waits"]})
    parent = client.create_run(experiment.experiment_id, tags={"pneumo.sweep": "shares"}, run_name="shares")
    client.log_text(parent.info.run_id, json.dumps({"jobs": jobs}), "sweep.json")
    found = Reader(store.uri).find("pneumo", "shares")
    assert {run.tags["pneumo.fingerprint"] for run in found.runs} == set(marks[:2])
    page = store.compare("shares", sweep_id="shares", upload=False)
    written = json.loads((page.folder / "comparison.json").read_text())
    assert written["left_out"] == [
        {"run": "model=resnet18 seed=9", "reason": "a job of the sweep whose run is not in this experiment"}
    ]


@pytest.mark.usefixtures("blank_page")
def test_one_run_alone_and_runs_without_patients(store: Store, empty_store: Path, tmp_path: Path) -> None:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    alone = Store(f"sqlite:///{tmp_path}/mlflow.db", tmp_path)
    make(tmp_path / "outputs", alone.uri, known=False)
    page = alone.compare(upload=False)
    assert "nothing to compare it with" in page.terminal
    assert "Patients are not known" in page.terminal
    with pytest.raises(UserError, match=r"tracking.experiment=other is not in sqlite.*holds Default, pneumo"):
        alone.compare(experiment="other")
    with pytest.raises(UserError, match=r"no finished run to compare\. .*: pneumo train --multirun model="):
        alone.compare(experiment="Default")


def test_the_command(store: Store) -> None:
    line = [sys.executable, "-m", "pneumo.compare", "experiment=pneumo", f"tracking.uri={store.uri}"]
    line += [f"output={store.root}/command", "draws=60", "latency=false", "upload=false"]
    blank = {**os.environ, "PNEUMO_TEST_BLANK_PAGE": "on"}
    done = subprocess.run(line, capture_output=True, text=True, timeout=200, cwd=store.root, env=blank)
    assert done.returncode == 0, done.stderr
    assert (store.root / "command" / "index.html").is_file()
    answer, warned, where, runs = done.stdout.rpartition("\n\n")[2].splitlines()
    assert re.match(
        r"Best by validation: resnet18, test AUROC \.\d{3} \(.+\)\. It has a higher AUROC", answer
    )
    assert warned == "Warnings (the page says more): Few patients. Optimistic runs. 4 runs left out."
    assert where == f"Page: {store.root}/command/index.html"
    assert runs == f"Runs: pneumo ui tracking.experiment=pneumo tracking.uri={store.uri}"


@pytest.mark.usefixtures("blank_page")
def test_predictions_of_any_program_are_compared(store: Store, empty_store: Path, tmp_path: Path) -> None:
    """As files, and as an artifact of runs that another program logged."""
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    other = Store(f"sqlite:///{tmp_path}/mlflow.db", tmp_path)
    client = MlflowClient(other.uri)
    experiment = client.create_experiment("sklearn", artifact_location=str(tmp_path / "artifacts"))
    files = []
    for number, quality in enumerate((2.0, 1.0, 1.5)):
        found = split("test", number, quality)
        file = tmp_path / f"model{number}.csv"
        file.write_bytes(predictions_csv(found))
        files.append(str(file))
        run = client.create_run(experiment, run_name=f"forest {number}")
        client.log_artifact(run.info.run_id, str(file.rename(tmp_path / "out.csv")), "tables")
        client.set_terminated(run.info.run_id, "FAILED" if number == 2 else "FINISHED")
        file.write_bytes(predictions_csv(found))
    page = other.compare("files", predictions=files[:2])
    first = json.loads((page.folder / "comparison.json").read_text())
    assert [row["name"] for row in first["configurations"]] == ["model0", "model1"]
    assert page.terminal.endswith(f"Page: {tmp_path}/files/index.html")
    page = other.compare("runs", predictions="mlflow:sklearn", artifact="tables/out.csv")
    second = json.loads((page.folder / "comparison.json").read_text())
    assert [row["name"] for row in second["configurations"]] == ["forest 0", "forest 1"]
    for one, two in zip(first["configurations"], second["configurations"], strict=True):
        assert one["scores"] == two["scores"]
    with pytest.raises(UserError, match=r"no finished run of sklearn has the artifact nowhere\.csv"):
        other.compare(predictions="mlflow:sklearn", artifact="nowhere.csv")
    with pytest.raises(UserError, match="experiment nothing is not in"):
        other.compare(predictions="mlflow:nothing", artifact="out.csv")
    with pytest.raises(UserError, match="both say what to compare"):
        other.compare(predictions=files, sweep_id="a")


def test_every_run_links_to_its_page_in_mlflow(page: Page, result: dict, store: Store) -> None:
    client = MlflowClient(store.uri)
    experiment = client.get_experiment_by_name("pneumo")
    assert experiment
    address = f"http://127.0.0.1:5000/#/experiments/{experiment.experiment_id}/runs/"
    links = set(re.findall(f'href="{address}([^"]+)"', (page.folder / "index.html").read_text()))
    rows = [*result["configurations"], *result["optimistic"]]
    assert links == {run["run_id"] for row in rows for run in row["runs"]}


def test_runs_on_a_server_link_to_the_server() -> None:
    address = _address("https://user:secret@mlflow.example.org/", "7")
    assert address == "https://mlflow.example.org/#/experiments/7/runs/"
    shown = _show_runs("https://user:secret@mlflow.example.org/", "7", "demo")
    assert shown == f"{address[:-1]}?workflowType=machine_learning&viewStateShareKey=pneumo"


@pytest.mark.parametrize(
    ("argument", "code", "words"),
    [
        ("tracking.experimnt=x", 2, "tracking.experimnt is not known; .* Did you mean tracking.experiment?"),
        ("experiment=nowhere", 1, "experiment=nowhere is not in"),
        ("draws=many", 2, "draws=many is not a whole number"),
        ("draws=1", 2, "draws=1: give 50 to 100,000"),
        ("tracking.experiment=nowhere", 1, "experiment=nowhere is not in .*, pneumo"),
        ("tracking.uri=sqlite:////nowhere/mlflow.db", 1, "/nowhere/mlflow.db does not exist"),
        ("predictions=[nowhere.csv]", 1, "nowhere.csv is not a file"),
        ("predictions=mlflow:pneumo", 2, "which artifact of the runs is the table of predictions"),
        ("artifact=a.csv", 2, "artifact=a.csv is read with predictions=mlflow:EXPERIMENT only"),
    ],
)
def test_the_command_names_a_mistake(
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture,
    argument: str,
    code: int,
    words: str,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setattr(sys, "argv", ["pneumo.compare", argument])
    with pytest.raises(SystemExit) as end:
        main()
    said = capfd.readouterr().err
    assert end.value.code == code and said.startswith(("error: ", "note: experiment= is the old spelling"))
    assert re.search(words, said) and "Traceback" not in said


def test_settings_out_of_range_are_refused() -> None:
    for keys, words in (
        ({"draws": 10}, "draws=10"),
        ({"rank_by": "luck"}, "rank_by=luck is not known"),
        ({"seed": -1}, "seed=-1"),
        ({"margin": 0}, "margin=0 must be between 0 and 1"),
    ):
        with pytest.raises(UserError, match=words):
            CompareConfig(**keys)  # type: ignore[arg-type]
    assert Images().root is None
