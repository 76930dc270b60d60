"""An error of a tracker becomes its reason and its remedy; real causes are in tests/services."""

import shutil
import sqlite3
from pathlib import Path

import pytest

from pneumo.tracking.diagnosis import explain
from pneumo.tracking.mlflow_client import describe, open_client


def error_of(uri: str) -> str:
    """What a user reads when the store at `uri` is asked for its experiments."""
    with pytest.raises(Exception) as raised:
        open_client(uri).search_experiments()
    return describe(raised.value, uri)


def test_a_dead_port() -> None:
    assert error_of("http://127.0.0.1:9").startswith("nothing answers there. Start the server, or correct")


def test_an_unknown_host() -> None:
    assert error_of("http://no-such-host.invalid").startswith("its host name is not known. Check the name")


def test_a_folder_of_an_old_mlflow(tmp_path: Path) -> None:
    assert error_of(f"{tmp_path}/mlruns").startswith(
        "MLflow no longer writes to folders such as ./mlruns. Give"
    )


def test_a_file_that_is_not_a_database(tmp_path: Path) -> None:
    (tmp_path / "notes.db").write_text("these are notes, and not a database at all")
    assert error_of(f"sqlite:///{tmp_path}/notes.db").startswith("the file is not a SQLite database. Name")


def test_a_missing_driver() -> None:
    words = "the package pymysql is not installed. Install it with `pip install pymysql`."
    assert error_of("mysql+pymysql://127.0.0.1/runs").startswith(words)


def test_a_database_of_another_version(tmp_path: Path, empty_store: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    with sqlite3.connect(tmp_path / "mlflow.db") as store:
        store.execute("UPDATE alembic_version SET version_num = 'cfd24bdc0731'")
    assert error_of(uri).startswith("the database was made by another version of MLflow. Copy it, then run")


def test_an_unknown_error_stays_as_it_is() -> None:
    assert explain("ValueError: seven") == "ValueError: seven"
