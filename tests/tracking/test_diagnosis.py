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


def test_a_kind_of_address_that_mlflow_does_not_know() -> None:
    assert error_of("foo://127.0.0.1").startswith("this kind of address is not known. Give sqlite:///FILE,")


# What the real servers of tests/services answered (test_tracker_causes.py, test_tracking.py), by its
# explanation. Not seen with a real cause: a full disk or a password of a database.
REQUEST = "MlflowException: API request to"
API = f"{REQUEST} endpoint /api/2.0/mlflow/experiments/get-by-name failed with error code"
POOL = (
    "failed with exception HTTPConnectionPool(host='127.0.0.1', port=45519): Max retries exceeded with url:"
)
FILES = f"{REQUEST} http://127.0.0.1:45519/api/2.0/mlflow-artifacts/artifacts/1/04/a.png {POOL}"
SEEN = {
    "the user or the password is wrong or missing. Set": (
        f"{API} 401 != 200. Response body: 'You are not authenticated. Please'"
    ),
    "the server does not allow this. Ask": f"{API} 403 != 200. Response body: 'Permission denied'",
    "the address is not an MLflow server's, or the server is too old. Check": (
        f"{API} 404 != 200. Response body: '<html>Nothing is here</html>'"
    ),
    "its certificate cannot be verified. Name": (
        f"{REQUEST} https://127.0.0.1:45519/ {POOL} (Caused by SSLError(SSLCertVerificationError(1, "
        "'[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed certificate')))"
    ),
    "the server does not take artifacts. Start": (
        f"{FILES} (Caused by ResponseError('too many 503 error responses'))"
    ),
    "the server failed to store a file. Read": (
        f"{FILES} (Caused by ResponseError('too many 500 error responses'))"
    ),
    "the server answers, but only with error 500. Read": (
        f"{REQUEST} http://127.0.0.1:45519/api/2.0/mlflow/runs/create {POOL} (Caused by "
        "ResponseError('too many 500 error responses'))"
    ),
    "the artifact store wants a key, or does not know this one. Set": (
        "NoCredentialsError: Unable to locate credentials"
    ),
    "the bucket of the artifact store does not exist. Create": (
        "S3UploadFailedError: Failed to upload note.txt to no-such-bucket/note.txt: An error occurred "
        "(NoSuchBucket) when calling the PutObject operation: The specified bucket does not exist"
    ),
    "the artifact store does not answer. Start": (
        'EndpointConnectionError: Could not connect to the endpoint URL: "http://127.0.0.1:9/runs/note.txt"'
    ),
}


@pytest.mark.parametrize("words", SEEN)
def test_what_real_servers_answered(words: str) -> None:
    assert explain(SEEN[words]).startswith(words)
