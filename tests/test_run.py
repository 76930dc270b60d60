"""One run in this process: what it is called, how it ends, and that a second start skips it."""

import dataclasses
import subprocess
from pathlib import Path

import pytest
from support.model_runs import phantom
from support.training import Tiny

from pneumo import UserError, models, names, run
from pneumo.data import cache, manifest
from pneumo.provenance import first_checkout
from pneumo.run_plan import git_tags, plan_run
from pneumo.sweep.parent import Sweep
from pneumo.tracking.journal import Journal
from pneumo.tracking.settings import TrackingSettings


@pytest.fixture(autouse=True)
def tiny_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "build_model", lambda name, dropout, **_: Tiny(dropout=dropout))


def settings(folder: Path, **keys: object) -> run.Config:
    return phantom(folder, tracking=TrackingSettings(enabled=False), **keys)


def only_journal(folder: Path) -> Journal:
    (file,) = (folder / "outputs").glob("*/journal.jsonl")
    return Journal(file.parent)


def test_a_run_is_done_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = run.run(settings(tmp_path))
    assert (first.state, first.code, first.reason) == ("FINISHED", 0, None)
    journal = only_journal(tmp_path)
    assert first.score == journal.history("best/val_auroc")[-1][1]
    assert not (journal.folder / "state").exists()
    again = run.run(settings(tmp_path))
    assert "done already, skipped" in capsys.readouterr().out
    assert dataclasses.asdict(again) == dataclasses.asdict(first)
    assert only_journal(tmp_path).last == journal.last


def test_states_of_a_run_killed_right_after_its_end_go(tmp_path: Path) -> None:
    run.run(settings(tmp_path))
    state = only_journal(tmp_path).folder / "state"
    state.mkdir()
    (state / "step-000000001.pt").write_bytes(bytes(10))
    run.run(settings(tmp_path))
    assert not state.exists()


def test_force_sets_the_run_aside(tmp_path: Path) -> None:
    run.run(settings(tmp_path))
    run.run(settings(tmp_path, force=True))
    folders = sorted(file.parent.name for file in (tmp_path / "outputs").glob("*/journal.jsonl"))
    assert len(folders) == 2 and folders[1].startswith(f"{folders[0]}-")


def test_a_failing_run_keeps_its_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise RuntimeError("the report is broken")

    monkeypatch.setattr(run.run_scores, "report", fail)
    outcome = run.run(settings(tmp_path))
    assert (outcome.state, outcome.code) == ("FAILED", 1)
    journal = only_journal(tmp_path)
    assert journal.reason == outcome.reason == "RuntimeError: the report is broken"
    assert names.TRACEBACK in journal.artifacts


def test_a_users_mistake_leaves_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*arguments: object) -> None:
        raise UserError("give another value")

    monkeypatch.setattr(run.run_scores, "report", refuse)
    outcome = run.run(settings(tmp_path))
    assert (outcome.state, outcome.reason) == ("FAILED", "give another value")
    assert "Traceback" not in capsys.readouterr().err
    assert names.TRACEBACK not in only_journal(tmp_path).artifacts


def test_before_the_run_begins_nothing_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = settings(tmp_path)
    wrong.data.name, wrong.data.root = "chest_xray", str(tmp_path / "nowhere")
    outcome = run.run(wrong)
    assert (outcome.state, outcome.code) == ("FAILED", 1)
    assert "nowhere" in capsys.readouterr().err
    assert not list((tmp_path / "outputs").glob("**/*"))


@pytest.mark.parametrize(
    ("select_on", "val_protocol", "protocol"),
    [
        ("val", "patient", names.PATIENT_VAL),
        ("val", "official", names.OFFICIAL_VAL),
        ("test", "patient", names.TEST_SELECTED),
        ("test", "official", names.TEST_SELECTED),
    ],
)
def test_the_protocol_says_how_the_epoch_is_chosen(
    tmp_path: Path, select_on: str, val_protocol: str, protocol: str
) -> None:
    wanted = settings(tmp_path)
    data = cache.prepare(manifest.build(wanted.data), wanted.data)
    wanted.trainer.select_on, wanted.data.val_protocol = select_on, val_protocol
    plan = plan_run(wanted, data)
    assert plan.protocol == protocol == plan.tags()[names.PROTOCOL_TAG]


def test_a_plan_names_and_describes_the_run(tmp_path: Path) -> None:
    wanted = settings(tmp_path)
    plan = plan_run(wanted, cache.prepare(manifest.build(wanted.data), wanted.data))
    assert plan.folder == tmp_path / "outputs" / plan.fingerprint
    assert plan.name == f"resnet18 imbalanced none {plan.fingerprint[:6]}"
    tags, params = plan.tags(), plan.params()
    assert (tags[names.SYNTHETIC_TAG], tags[names.FINGERPRINT_TAG]) == ("true", plan.fingerprint)
    assert names.SWEEP_TAG not in tags
    assert params["augment.name"] == "none" and params["optim.lr"] == 1e-4
    assert not {"trainer.device", "trainer.checkpoint_every_s", "data.root"} & set(params)


@pytest.mark.parametrize(
    ("axes", "overrides", "name"),
    [
        (["optim.lr", "model.dropout"], ["optim.lr=1e-4", "model.dropout=0.3"], "dropout=0.3 lr=0.0001"),
        (["model"], ["model=resnet50", "trainer.epochs=3"], "resnet50"),
        ([], ["optim.lr=1e-4", "data.root=/x", "force=true"], "resnet18 imbalanced none lr=0.0001"),
        (None, ["optim.lr=1e-4", "model=resnet18", "seed=3"], "resnet18 imbalanced none lr=0.0001 seed=3"),
        (None, [f"augment.k{n}=0.123" for n in range(9)], "resnet18 imbalanced none k0=0.123 k1=0.123 k2="),
    ],
)
def test_a_run_is_named_by_what_differs(
    tmp_path: Path, axes: list[str] | None, overrides: list[str], name: str
) -> None:
    wanted = settings(tmp_path)
    sweep = None
    if axes is not None:
        sweep = Sweep(id="s", root=str(tmp_path), experiment="e", overrides=[], planned={}, axes=axes)
    data = cache.prepare(manifest.build(wanted.data), wanted.data)
    plan = plan_run(wanted, data, sweep, None, overrides)
    assert plan.name.startswith(name) and plan.name.endswith(f" {plan.fingerprint[:6]}")
    assert len(plan.name) < 90
    if len(overrides) < 9:
        assert plan.name == f"{name} {plan.fingerprint[:6]}"


def test_the_commit_is_that_of_the_checkout_alone(tmp_path: Path) -> None:
    assert git_tags(tmp_path) == {}
    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@example.org"]
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "first"]):
        subprocess.run([*git, *words], check=True)
    (tmp_path / "file").write_text("x")  # a new file is not a change of the code
    first_checkout.cache_clear()  # as another process
    tags = git_tags(tmp_path)
    assert len(tags[names.COMMIT_TAG]) == 40 and tags[names.DIRTY_TAG] == "false"
    subprocess.run([*git, "add", "file"], check=True)
    assert git_tags(tmp_path) == tags  # this process loaded the code before
    first_checkout.cache_clear()
    assert git_tags(tmp_path)[names.DIRTY_TAG] == "true"
    (tmp_path / "inside").mkdir()
    assert git_tags(tmp_path / "inside") == {}


def test_the_state_of_a_finished_run_is_kept_on_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run.run(settings(tmp_path))
    journal = only_journal(tmp_path)
    assert not (journal.folder / "state").exists()
    run.run(settings(tmp_path, keep_state=True))  # it is done: nothing to keep
    assert "its state was deleted when it ended" in capsys.readouterr().out
    run.run(settings(tmp_path, keep_state=True, force=True))
    assert list((journal.folder / "state").glob("step-*.pt"))
