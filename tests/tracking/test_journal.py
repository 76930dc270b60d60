"""The journal: what is read back after any interruption, and what is refused."""

import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pneumo import UserError
from pneumo.tracking.journal import Journal, NullJournal, artifact_file, decode, encode, read_records, redact

names = st.text(min_size=1, max_size=8)
numbers = st.floats(allow_nan=False, allow_infinity=False)
writes = st.lists(
    st.one_of(
        st.tuples(st.just("params"), st.dictionaries(names, names, max_size=3)),
        st.tuples(st.just("tags"), st.dictionaries(names, names, max_size=3)),
        st.tuples(st.just("metrics"), st.dictionaries(names, numbers, max_size=3), st.integers(1, 4)),
        st.tuples(st.just("end"), st.sampled_from(["FINISHED", "FAILED", "KILLED"]), names),
        st.tuples(st.just("resume")),
    ),
    max_size=8,
)


def written(folder: Path, calls: list[tuple]) -> Journal:  # type: ignore[type-arg]
    journal = Journal(folder)
    journal.start("run", "experiment", {"tag": "1"})
    for name, *arguments in calls:
        getattr(journal, name)(*arguments)
    journal.close()
    return journal


def state(journal: Journal) -> dict[str, object]:
    hidden = {"folder", "path", "_fd", "_lock"}
    return {key: value for key, value in vars(journal).items() if key not in hidden}


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    journal = Journal(tmp_path / "run")
    journal.start("run", "experiment", {"mlflow.parentRunId": "abc"})
    return journal


@settings(deadline=None, max_examples=60)
@given(writes, st.data())
def test_any_cut_leaves_a_prefix_that_goes_on(calls: list[tuple], data: st.DataObject) -> None:  # type: ignore[type-arg]
    with tempfile.TemporaryDirectory() as folder:
        whole = written(Path(folder), calls)
        records, size = read_records(whole.path)
        assert size == whole.path.stat().st_size
        assert state(Journal(Path(folder))) == state(whole)
        cut = data.draw(st.integers(0, size))
        os.truncate(whole.path, cut)
        prefix, end = read_records(whole.path)
        assert prefix == records[: len(prefix)]
        assert end == sum(len(encode(record)) for record in prefix) <= cut
        again = Journal(Path(folder))
        again.start("run", "experiment", {})
        again.metrics({"after": 1.0}, 99)
        again.close()
        after, _ = read_records(whole.path)
        assert after[: len(prefix)] == prefix and after[-1]["body"]["values"] == {"after": 1.0}
        assert state(Journal(Path(folder))) == state(again)


@settings(deadline=None, max_examples=60)
@given(writes, st.data())
def test_any_changed_byte_is_noticed(calls: list[tuple], data: st.DataObject) -> None:  # type: ignore[type-arg]
    with tempfile.TemporaryDirectory() as folder:
        whole = written(Path(folder), calls)
        records, size = read_records(whole.path)
        content = bytearray(whole.path.read_bytes())
        content[data.draw(st.integers(0, size - 1))] ^= data.draw(st.integers(1, 255))
        whole.path.write_bytes(content)
        try:
            seen, _ = read_records(whole.path)
        except UserError as error:
            assert "damaged" in str(error) and str(whole.path) in str(error)
        else:
            assert seen == records[: len(seen)] and len(seen) == len(records) - 1


@given(st.dictionaries(names, numbers))
def test_numbers_survive_exactly(values: dict[str, float]) -> None:
    record = {"n": 1, "t": 2, "kind": "metrics", "body": {"step": 1, "values": values}}
    assert decode(encode(record)[:-1]) == record


@given(st.binary(max_size=60))
def test_foreign_bytes_are_never_a_record(line: bytes) -> None:
    assert decode(line) is None


def test_a_point_is_held_once(journal: Journal) -> None:
    journal.metrics({"val/auroc": 0.5}, 1)
    journal.metrics({"val/auroc": 0.6, "val/loss": 1}, 1)
    journal.metrics({"val/auroc": 0.7}, 2)
    assert journal.history("val/auroc") == [(1, 0.5), (2, 0.7)]
    assert [row[:2] for row in journal.metric_rows()] == [
        ("val/auroc", 0.5),
        ("val/loss", 1.0),
        ("val/auroc", 0.7),
    ]
    again = Journal(journal.folder)
    assert again.metric_rows() == journal.metric_rows()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_refused_by_name(journal: Journal, value: float) -> None:
    with pytest.raises(ValueError, match="train/loss"):
        journal.metrics({"train/accuracy": 1.0, "train/loss": value}, 3)
    assert journal.metric_rows() == []


def test_start_params_tags_and_end_are_idempotent(journal: Journal) -> None:
    for _ in range(2):
        journal.start("other", "other", {})
        journal.params({"optim.lr": 1e-4})
        journal.tags({"pneumo.sweep": "s"})
        journal.dataset("d", "digest", "/data", "train")
        journal.end("KILLED", "SIGTERM")
    assert journal.last == 5
    journal.resume()
    journal.resume()
    assert journal.status == "RUNNING" and journal.last == 6
    journal.end("FINISHED")
    again = Journal(journal.folder)
    assert (again.status, again.reason, again.journal_id) == ("FINISHED", None, journal.journal_id)
    assert again.params_logged == {"optim.lr": "0.0001"}
    with pytest.raises(ValueError, match="FINISHED, FAILED, KILLED"):
        journal.end("DONE")


def test_artifacts_are_recorded_with_their_hash(journal: Journal) -> None:
    path = artifact_file(journal.folder, "figures/roc test.png")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"png")
    journal.artifact("figures/roc test.png")
    journal.artifact("figures/roc test.png")
    assert journal.last == 2 and journal.artifacts["figures/roc test.png"]["size"] == 3


@pytest.mark.parametrize(
    "name", ["../x", "/etc/passwd", "a/../../x", "", "a//b", ".x", "a\0b", "a\\b", "a/b\n"]
)
def test_an_artifact_cannot_leave_its_folder(journal: Journal, name: str) -> None:
    with pytest.raises(UserError, match="relative path"):
        journal.artifact(name)


def test_an_artifact_cannot_be_a_link_out(journal: Journal) -> None:
    (journal.folder / "artifacts").mkdir()
    (journal.folder / "artifacts" / "x").symlink_to("/etc/passwd")
    with pytest.raises(UserError, match="leads out"):
        journal.artifact("x")


def test_damage_in_the_middle_names_line_and_mend(journal: Journal) -> None:
    journal.params({"a": 1})
    journal.params({"b": 2})
    lines = journal.path.read_text().splitlines(keepends=True)
    journal.path.write_text(lines[0] + lines[1].replace("a", "b") + lines[2])
    with pytest.raises(UserError, match=r"line 2: damaged.*head -n 1"):
        Journal(journal.folder)
    journal.path.write_text(lines[0] + lines[2])  # a line lost
    with pytest.raises(UserError, match="line 2: damaged"):
        Journal(journal.folder)


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from pneumo import UserError
from pneumo.tracking.journal import Journal
journal = Journal(Path(sys.argv[1]))
journal.start("run", "experiment", {})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
limits = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (journal.path.stat().st_size + 20, limits[1]))
try:
    journal.metrics({"a": 1.0}, 1)
except UserError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, limits)
assert journal.path.stat().st_size == journal._end
journal.metrics({"a": 2.0}, 1)
print(journal.history("a"), Journal(Path(sys.argv[1])).history("a"))
"""


def test_a_full_disk_leaves_the_journal_usable(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    error, rows = done.stdout.splitlines()
    assert "the disk is full" in error and str(tmp_path) in error and "1 records are intact" in error
    assert rows == "[(1, 2.0)] [(1, 2.0)]"


SECOND_WRITER = """
import sys
from pathlib import Path
from pneumo.tracking.journal import Journal
journal = Journal(Path(sys.argv[1]))
print(journal.status)
journal.params({"b": 1})
"""


def test_a_second_process_may_read_but_not_write(journal: Journal) -> None:
    command = [sys.executable, "-c", SECOND_WRITER, str(journal.folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stdout == "RUNNING\n" and "another process" in done.stderr and done.returncode == 1
    journal.close()
    assert subprocess.run(command, capture_output=True, timeout=120).returncode == 0


def test_nothing_before_start(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="not started"):
        Journal(tmp_path).params({"a": 1})
    assert Journal(tmp_path).status is None and list(tmp_path.iterdir()) == []


def test_the_null_journal_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    journal = NullJournal()
    journal.start("run", "experiment", {})
    journal.metrics({"a": 1.0}, 1)
    journal.artifact("missing.png")
    journal.end("FINISHED")
    journal.close()
    assert journal.history("a") == [(1, 1.0)] and journal.status == "FINISHED"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("http://me:secret@host:5000/x", "http://host:5000/x"),
        ("http://me:s/e@c@host/x", "http://host/x"),
        ("to http://token@host/a@b failed", "to http://host/a@b failed"),
        ("http://token@host", "http://host"),
        ("postgresql://h/db?user=u&password=secret&x=1", "postgresql://h/db?user=u&password=...&x=1"),
        ("https://github.com/a/b@v1 me@x.org", "https://github.com/a/b@v1 me@x.org"),
        ("sqlite:////a/b.db", "sqlite:////a/b.db"),
    ],
)
def test_redact(text: str, clean: str) -> None:
    assert redact(text) == clean


def test_credentials_do_not_reach_the_journal(journal: Journal) -> None:
    uri = "http://me:secret@host"
    journal.params({"tracking.uri": uri})
    journal.tags({"uri": uri})
    journal.dataset("d", "1", uri, "train")
    journal.end("FAILED", f"no answer from {uri}")
    assert "secret" not in journal.path.read_text()
    assert (
        json.loads(journal.path.read_text().splitlines()[-1])["body"]["reason"]
        == "no answer from http://host"
    )
