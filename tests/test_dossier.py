"""The files for a paper beside the page: every pointer is followed to what it names."""

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient
from support.comparison_runs import candidate, candidates, finished, make, split

from pneumo.compare import CompareConfig, compare
from pneumo.comparison import choice_card, dossier
from pneumo.evaluation.predictions import predictions_csv
from pneumo.tracking.settings import TrackingSettings

pytest.importorskip(
    "cyclonedx", reason="cyclonedx-python-lib is not installed: pip install 'pneumo[dossier]'"
)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Four runs of two models in a sweep whose parent run exists, and the folder of its page."""
    root = tmp_path_factory.mktemp("sweep")
    uri = f"sqlite:///{root}/mlflow.db"
    for model in ("resnet18", "densenet121"):
        for seed in (0, 1):
            make(root / "outputs", uri, model, seed, sweep_id="two-1")
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("pneumo")
    assert experiment
    client.create_run(experiment.experiment_id, tags={"pneumo.sweep": "two-1"}, run_name="two")
    run = client.search_runs([experiment.experiment_id], "tags.`pneumo.fingerprint` != ''")[0]
    client.log_text(run.info.run_id, "a.jpeg: no image\nb.jpeg: empty\n", "bad_images.txt")
    settings = CompareConfig(
        tracking=TrackingSettings(uri=uri, experiment="pneumo"),
        **{"sweep_id": "two-1", "output": str(root / "page"), "dossier": True, "draws": 60, "latency": False},
    )
    assert compare(settings).terminal.count("Dossier: ") == 1
    return uri, root / "page"


def test_every_pointer_leads_to_what_it_names(sweep: tuple[str, Path]) -> None:
    uri, folder = sweep
    page = (folder / "index.html").read_text()
    comparison = json.loads((folder / "comparison.json").read_text())
    client = MlflowClient(uri)
    run_ids = [run["run_id"] for row in comparison["configurations"] for run in row["runs"]]
    assert len(run_ids) == 4
    settings = {*comparison["differences"]["keys"], *comparison["differences"]["shared"]}

    def held(run_id: str, name: str) -> bool:
        folder = name.rpartition("/")[0] or None
        return name in {entry.path for entry in client.list_artifacts(run_id, folder)}

    exists = {
        "section": lambda name: f'id="{name.lower().replace(" ", "-")}"' in page and f">{name}<" in page,
        "figure": lambda name: (folder / "figures" / f"{name}.png").is_file(),
        "file": lambda name: (folder / "dossier" / name).is_file(),
        "artifact": lambda name: any(held(run_id, name) for run_id in run_ids),
        "key": lambda name: name in settings,
        "commit": lambda name: name in comparison["about"]["commits"],
    }
    with (folder / "dossier" / "reporting.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 44 + 52 + 48
    pointers = [one.split(":", 1) for row in rows for one in row["pointers"].split("; ") if one]
    assert {kind for kind, _ in pointers} >= {"section", "figure", "file", "artifact", "key"}
    assert [one for one in pointers if not exists[one[0]](one[1])] == []
    assert all((row["state"] == "open") == (row["pointers"] == "") for row in rows)


def test_the_links_of_the_files_work_and_the_counts_of_artifacts_are_right(sweep: tuple[str, Path]) -> None:
    _, folder = sweep
    page = (folder / "index.html").read_text()
    text = (folder / "dossier" / "reporting.md").read_text()
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert len(links) > 50
    for link in set(links):
        file, _, anchor = link.partition("#")
        assert (folder / "dossier" / file).is_file(), link
        assert not anchor or f'id="{anchor}"' in page, link
    assert "artifact `config.yaml` of 4 of 4 runs" in text
    assert "artifact `bad_images.txt` of 1 of 4 runs" in text
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    assert {line.replace("\\|", "").count("|") for line in lines} == {6}


def test_it_is_uploaded_with_the_page(sweep: tuple[str, Path]) -> None:
    uri, folder = sweep
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("pneumo")
    assert experiment
    (parent,) = client.search_runs([experiment.experiment_id], "attributes.run_name = 'two'")
    held = {
        entry.path.rpartition("/")[2]
        for entry in client.list_artifacts(parent.info.run_id, "comparison/dossier")
    }
    assert held == {path.name for path in (folder / "dossier").iterdir()}
    assert held == {"reporting.md", "reporting.csv", "data_statement.md", "model_card.md", "sbom.json"}


def test_the_data_statement_has_the_splits_and_what_was_left_out(sweep: tuple[str, Path]) -> None:
    text = (sweep[1] / "dossier" / "data_statement.md").read_text()
    assert "| training | 470 | 300 | 120 " in text and "| test | 119 | 60 | 46 " in text
    assert "2 unreadable files left out, listed in the artifact `bad_images.txt` of 1 of 4 runs" in text
    assert "`data.val_protocol=patient`" in text and "d" * 64 in text
    assert "Where the labels came from, who gave them, how well annotators agree: **Open" in text


def test_the_card_is_of_the_configuration_that_validation_prefers(sweep: tuple[str, Path]) -> None:
    folder = sweep[1]
    comparison = json.loads((folder / "comparison.json").read_text())
    (row,) = [one for one in comparison["configurations"] if one["id"] == comparison["choice"]["id"]]
    text = (folder / "dossier" / "model_card.md").read_text()
    assert text.startswith(f"# Model card: {row['name']}\n")
    score = row["scores"]["auroc"]
    assert f"| AUROC | {score['value']:.4f} ({score['low']:.3f}\N{EN DASH}{score['high']:.3f}) |" in text
    assert all(run["run_id"] in text for run in row["runs"])
    other = [one for one in comparison["configurations"] if one is not row]
    assert not any(run["run_id"] in text for one in other for run in one["runs"])
    assert f"{row['points']['youden']['thresholds'][0]:.3f}" in text


def test_without_validation_scores_no_card_prefers_a_configuration() -> None:
    comparison = finished(candidates())
    assert choice_card.text(comparison).startswith("# Model card: resnet18")
    comparison["choice"] = None
    assert choice_card.text(comparison).startswith("# Model card\n\nNone: ")


def test_columns_of_subgroups_are_counted() -> None:
    run = candidate()
    count = len(run.test.paths)
    sexes = ["F"] * 20 + ["M"] * (count - 25) + [""] * 5
    run.test = replace(run.test, subgroups={"sex": sexes, "age": [str(n) for n in range(count)]})
    found = dossier.subgroups_of([candidate(), run])
    text = dossier.data_statement(finished([run]), dossier.Records(runs=1, subgroups=found))
    assert f"- test, sex: F 20, M {count - 25}; not known for 5 images" in text
    assert f"- test, age: 0 to {count - 1}, median {count // 2}" in text
    assert "No run lists an unreadable file" in text


def test_predictions_of_other_programs_have_a_dossier_too(tmp_path: Path) -> None:
    tables = []
    for number, quality in enumerate((2.0, 1.0)):
        file = tmp_path / f"{number}.csv"
        file.write_bytes(predictions_csv(split("test", 0, quality)))
        tables.append(str(file))
    settings = CompareConfig(predictions=tables, output=str(tmp_path / "page"), draws=60, dossier=True)
    written = compare(settings)
    folder = written.folder / "dossier"
    assert {path.name for path in folder.iterdir()} == {Path(name).name for name in written.files[-5:]}
    with (folder / "reporting.csv").open() as file:
        rows = {(row["guideline"], row["item"]): row for row in csv.DictReader(file)}
    assert rows["CLAIM", "20"]["state"] == "open"  # nobody recorded how training was kept apart
    assert rows["CLAIM", "37"]["state"] == "answered"
    assert "artifact:" not in "".join(row["pointers"] for row in rows.values())
    assert (folder / "model_card.md").read_text().startswith("# Model card\n\nNone: ")
