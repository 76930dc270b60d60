"""The addresses of MLflow's pages, and the server that shows a SQLite store."""

import json
import subprocess
from pathlib import Path

from pneumo.tracking import pages


def test_every_address_names_the_mode_for_machine_learning() -> None:
    for path in (
        pages.experiments(),
        pages.experiment("3"),
        pages.experiment("3", saved=True),
        pages.sweep("3", "a"),
        pages.run("3", "b"),
    ):
        assert path.startswith("/#/experiments") and pages.MODE in path


def test_saved_views_are_named() -> None:
    assert pages.experiment("3", saved=True).endswith("&viewStateShareKey=pneumo")
    assert pages.sweep("3", "abc").endswith("&viewStateShareKey=abc")


def test_a_server_is_its_own_base_without_its_password() -> None:
    assert pages.base("http://me:secret@host:5000/") == "http://host:5000"


def test_a_sqlite_store_has_a_base_while_it_is_served(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    assert pages.base(uri) is None
    pages.note_server(uri, 5007)
    assert pages.base(uri) == "http://127.0.0.1:5007"
    note = tmp_path / "mlflow.db.ui.json"
    content = json.loads(note.read_text())
    with subprocess.Popen(["sleep", "60"]) as other:  # another process has taken the number of the server's
        note.write_text(json.dumps({**content, "pid": other.pid}))
        assert pages.base(uri) is None
        other.kill()
    pages.note_server(uri, 5007)
    pages.forget_server(uri)
    assert pages.base(uri) is None


def test_a_database_server_has_no_known_base() -> None:
    assert pages.base("postgresql://u:p@127.0.0.1/runs") is None
