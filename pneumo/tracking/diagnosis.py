"""What an error of MLflow, of a server or of a database means to a user: the reason, and what to do.

The tests show which patterns were seen with the real cause. An error that matches none is shown unchanged.
"""

import re
from typing import NamedTuple


class Cause(NamedTuple):
    """`pattern` is looked for in the error's text, which begins with its class."""

    pattern: str
    reason: str
    fix: str


CAUSES = (
    Cause(
        r"out-of-date database schema|Can't locate revision",
        "the database was made by another version of MLflow",
        "Copy it, then run `mlflow db upgrade URI`, or name another store with tracking.uri=",
    ),
    Cause(
        r"filesystem tracking backend|mlruns.*maintenance mode",
        "MLflow no longer writes to folders such as ./mlruns",
        "Give a database: tracking.uri=sqlite:///mlflow.db; `mlflow migrate-filestore` moves old runs",
    ),
    Cause(
        r"error code 401|\b401 (Client Error|Unauthorized)|not authenticated|password authentication failed"
        r"|no password supplied",
        "the user or the password is wrong or missing",
        "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (of a database: in its URI)",
    ),
    Cause(
        r"error code 403|\b403 (Client Error|Forbidden)|Permission denied",
        "the server does not allow this",
        "Ask its owner for permission to write; of an MLflow server, --allowed-hosts must name this address",
    ),
    Cause(
        r"CERTIFICATE_VERIFY_FAILED|SSLError|SSLCertVerificationError|\[SSL",
        "its certificate cannot be verified",
        "Name the file of its authority: MLFLOW_TRACKING_SERVER_CERT_PATH=FILE or REQUESTS_CA_BUNDLE=FILE",
    ),
    Cause(
        r"No space left on device|disk is full|database or disk is full|could not extend file|Disk quota",
        "its disk is full",
        "Free space there",
    ),
    Cause(
        r"--serve-artifacts|artifact.*proxy|mlflow-artifacts.*(503|not enabled)|currently disabled",
        "the server does not take artifacts",
        "Start it with --serve-artifacts",
    ),
    Cause(
        r"NoCredentialsError|Unable to locate credentials|InvalidAccessKeyId|SignatureDoesNotMatch",
        "the artifact store wants a key, or does not know this one",
        "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    ),
    Cause(
        r"NoSuchBucket",
        "the bucket of the artifact store does not exist",
        "Create it, or correct the server's --default-artifact-root",
    ),
    Cause(
        r"EndpointConnectionError|Could not connect to the endpoint URL",
        "the artifact store does not answer",
        "Start it, or correct MLFLOW_S3_ENDPOINT_URL",
    ),
    Cause(
        r"mlflow-artifacts/.*too many 500 error",
        "the server failed to store a file",
        "Read the server's log: its disk may be full, or its artifact store not within reach",
    ),
    Cause(
        r"too many (?P<what>\d{3}) error",
        "the server answers, but only with error {what}",
        "Read its log, or that of the proxy before it",
    ),
    Cause(
        r"NameResolutionError|Failed to resolve|Name or service not known|could not translate host name",
        "its host name is not known",
        "Check the name in tracking.uri",
    ),
    Cause(
        r"Connection refused|NewConnectionError|ConnectTimeout|No route to host|timed out|Max retries",
        "nothing answers there",
        "Start the server, or correct tracking.uri",
    ),
    Cause(
        r"ModuleNotFoundError: No module named '(?P<what>\w+)'",
        "the package {what} is not installed",
        "Install it with `pip install {what}`",
    ),
    Cause(
        r"file is not a database|file is encrypted",
        "the file is not a SQLite database",
        "Name another file with tracking.uri=sqlite:///FILE",
    ),
    Cause(
        r"unable to open database file|attempt to write a readonly database",
        "the database file cannot be written",
        "Check the folder and its permissions",
    ),
    Cause(
        r"unsupported URI|Could not parse SQLAlchemy URL|UnsupportedModelRegistryStore",
        "this kind of address is not known",
        "Give sqlite:///FILE, postgresql://..., or an MLflow server's http://HOST:PORT",
    ),
    Cause(
        r"error code 404|NotImplementedError|error code 405|ENDPOINT_NOT_FOUND",
        "the address is not an MLflow server's, or the server is too old",
        "Check the path in tracking.uri; MLflow 2.14 or later is needed",
    ),
)


def explain(text: str) -> str:
    """`text`, an error in one line, after its reason and its remedy where they are known."""
    for cause in CAUSES:
        if match := re.search(cause.pattern, text, re.IGNORECASE | re.DOTALL):
            words = {name: value for name, value in match.groupdict().items() if value}
            return f"{cause.reason.format(**words)}. {cause.fix.format(**words)}. ({text})"
    return text
