"""What MLflow's errors mean, which store is a SQLite file, and that importing the module is cheap."""

import subprocess
import sys
from pathlib import Path

import pytest
import requests
from mlflow.exceptions import MlflowException, RestException

from pneumo import UserError
from pneumo.files import Busy
from pneumo.tracking.mlflow_client import checked_id, describe, is_refusal, sqlite_file


def http_error(status: int, body: str) -> requests.HTTPError:
    response = requests.Response()
    response.status_code, response._content = status, body.encode()
    return requests.HTTPError("failed", response=response)


@pytest.mark.parametrize(
    ("error", "refused"),
    [
        (RestException({"error_code": "INVALID_PARAMETER_VALUE", "message": "API"}), True),
        (RestException({"error_code": "INTERNAL_ERROR", "message": "x"}), False),
        (RestException({"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "x"}), False),
        (RestException({"error_code": "PERMISSION_DENIED", "message": "x"}), False),
        (RestException({"detail": "Bad gateway"}), False),
        (MlflowException("API request to endpoint /x failed with error code 400 != 200. <html>", 1), False),
        (MlflowException.invalid_parameter_value("names may only contain"), True),
        (http_error(400, '{"error_code": "INVALID_PARAMETER_VALUE"}'), True),
        (http_error(400, "<html>"), False),
        (http_error(400, "[]"), False),
        (http_error(503, '{"error_code": "INVALID_PARAMETER_VALUE"}'), False),
        (requests.ConnectionError(), False),
        (TimeoutError(), False),
    ],
)
def test_only_mlflows_own_refusal_is_final(error: Exception, refused: bool) -> None:
    assert is_refusal(error) is refused


@pytest.mark.parametrize("module", ["mlflow_client", "courier"])
def test_import_costs_nothing(module: str) -> None:
    code = f"import sys, pneumo.tracking.{module}; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0


@pytest.mark.parametrize("error", [FileNotFoundError("gone.txt"), UserError("the file stays there.")])
def test_what_is_missing_or_impossible_here_is_final(error: Exception) -> None:
    assert is_refusal(error)


@pytest.mark.parametrize(
    ("uri", "file"),
    [
        ("sqlite:////a/b.db", "/a/b.db"),
        ("sqlite+pysqlite:////a/b.db?timeout=5", "/a/b.db"),
        ("sqlite:///:memory:", None),
        ("http://127.0.0.1:5000", None),
        ("postgresql://me@host/db", None),
    ],
)
def test_the_file_of_a_store(uri: str, file: str | None) -> None:
    assert sqlite_file(uri) == (Path(file) if file else None)


def test_a_relative_store_is_in_the_working_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert sqlite_file("sqlite:///b.db") == tmp_path / "b.db"


def test_a_described_error_holds_no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "t0ken")
    uri = "http://me:s3cret@127.0.0.1:5000"
    text = describe(requests.ConnectionError(f"{uri}/api\n  refused; sent t0ken"), uri)
    assert text.startswith("ConnectionError: http://") and text.endswith("/api refused; sent ...")
    assert "s3cret" not in text and "t0ken" not in text


def test_our_own_errors_are_described_without_their_class() -> None:
    assert describe(Busy("another process holds x"), "sqlite:///a.db") == "another process holds x"


def test_an_empty_id_is_not_taken() -> None:
    assert checked_id("7") == "7"
    with pytest.raises(ConnectionError, match="is this an MLflow server"):
        checked_id("")
