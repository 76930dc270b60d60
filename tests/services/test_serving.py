"""`mlflow models serve` on a registered model: answers, and a reason for every malformed request."""

import base64
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.images import picture
from support.model_runs import THREE, make
from support.servers import Serving, champion

from pneumo.data.images import preprocess, read
from pneumo.inference import model_folder, pyfunc
from pneumo.inference.bundle import Bundle
from pneumo.tracking.registry import resolve

pytestmark = pytest.mark.services


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Serving, Bundle]]:
    folder = tmp_path_factory.mktemp("serving")
    uri = champion(folder, make(folder / "artifacts", "resnet18"))
    serving = Serving(folder, uri)
    serving.start()
    try:
        serving.wait()
        yield serving, model_folder.read(resolve("models:/pneumo@champion", uri, folder / "cache").folder)
    finally:
        serving.kill()


@pytest.fixture
def server_of_three(tmp_path: Path) -> Iterator[tuple[Serving, Bundle]]:
    uri = champion(tmp_path, make(tmp_path / "artifacts", "resnet18", classes=THREE))
    serving = Serving(tmp_path, uri)
    serving.start()
    try:
        serving.wait()
        yield serving, model_folder.read(resolve("models:/pneumo@champion", uri, tmp_path / "cache").folder)
    finally:
        serving.kill()


def encoded(image: np.ndarray | Image.Image, kind: str = "PNG") -> str:
    page = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(page, kind)
    return base64.b64encode(page.getvalue()).decode()


def split(*rows: object) -> dict[str, Any]:
    return {"dataframe_split": {"columns": ["image"], "data": [[row] for row in rows]}}


def test_it_answers_as_the_model_does(server: tuple[Serving, Bundle], tmp_path: Path) -> None:
    serving, model = server
    texts = [encoded(picture(0, 1)), encoded(picture(1, 2), "JPEG"), encoded(picture(1, 3, 300, 400))]
    squares = []
    for number, text in enumerate(texts):
        file = tmp_path / f"{number}.png"
        file.write_bytes(base64.b64decode(text))
        squares.append(preprocess(read(file), **model.preprocess))
    raw = model.probabilities(np.stack(squares))
    records = {"dataframe_records": [{"image": text} for text in texts]}
    for body in (
        split(*texts),
        records,
        {"inputs": {"image": texts}},
        {"instances": records["dataframe_records"]},
    ):
        status, answer = serving.post(body)
        assert status == 200, answer
        rows = answer["predictions"]
        assert [set(row) for row in rows] == [{*pyfunc.OUTPUTS, *pyfunc.LATER}] * 3
        np.testing.assert_allclose([row["probability"] for row in rows], model.calibrated(raw), atol=1e-5)
        assert [row["decision"] for row in rows] == model.decide(raw).tolist()
        assert {row["threshold"] for row in rows} == {model.threshold}
        assert all(row["class"] == model.class_names[row["decision"]] for row in rows)
        assert all(isinstance(row["warnings"], list) for row in rows)
        assert {row["version"] for row in rows} == {"pneumo 1"}


def test_three_classes_are_answered_with_a_field_for_each(
    server_of_three: tuple[Serving, Bundle], tmp_path: Path
) -> None:
    serving, model = server_of_three
    texts = [encoded(picture(0, 1)), encoded(picture(1, 2), "JPEG")]
    squares = []
    for number, text in enumerate(texts):
        file = tmp_path / f"{number}.png"
        file.write_bytes(base64.b64decode(text))
        squares.append(preprocess(read(file), **model.preprocess))
    calibrated = model.calibrated(model.probabilities(np.stack(squares)))
    status, answer = serving.post(split(*texts))
    assert status == 200, answer
    for row, chances in zip(answer["predictions"], calibrated, strict=True):
        assert [*row] == [*pyfunc.outputs(THREE)]
        np.testing.assert_allclose([row[f"p_{name}"] for name in THREE], chances, atol=1e-5)
        assert row["class"] == THREE[chances.argmax()] and row["version"] == "pneumo 1"
        assert row["reached"] == [name for name in THREE if row[f"p_{name}"] >= row[f"threshold_{name}"]]
    example = (model.weights.parent / "serving_input_example.json").read_bytes()
    assert serving.post(example)[0] == 200
    assert serving.post(split("not base64 !"))[0] == 400


def test_the_example_that_goes_with_the_model_is_answered(server: tuple[Serving, Bundle]) -> None:
    serving, model = server
    status, answer = serving.post((model.weights.parent / "serving_input_example.json").read_bytes())
    assert status == 200 and 0 <= answer["predictions"][0]["probability"] <= 1


def test_a_malformed_request_gets_400_and_a_reason(server: tuple[Serving, Bundle]) -> None:
    serving, _ = server
    good = encoded(picture(1, 1))
    bomb = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(bomb, "PNG")
    said = {
        b"": "JSON",
        b"{": "JSON",
        b"[1, 2": "JSON",
        b"\xff\xfe": "JSON",
        json.dumps({"data": good}).encode(): "exactly one of",
        json.dumps({"dataframe_split": {"columns": ["other"], "data": [[good]]}}).encode(): "image",
        json.dumps({"dataframe_split": 7}).encode(): "",
        json.dumps(split()).encode(): "",
        json.dumps(split(17)).encode(): "",
        json.dumps(split(None)).encode(): "",
        json.dumps(split({"a": 1})).encode(): "",
        json.dumps(split("not base64 !")).encode(): "row 0: image is not base64 text",
        json.dumps(split("")).encode(): "row 0",
        json.dumps(split(good, "AAAA")).encode(): "row 1: not a JPEG, PNG, TIFF",
        json.dumps(split(good[: len(good) // 2 // 4 * 4])).encode(): "row 0: damaged",
        json.dumps(split(encoded(Image.new("P", (9, 9)), "GIF"))).encode(): "row 0: not a JPEG",
        json.dumps(split(base64.b64encode(bomb.getvalue()).decode())).encode(): "than the limit",
        json.dumps(split(*[good] * 65)).encode(): "give 1 to 64 images",
        json.dumps(split("A" * (pyfunc.MAX_CHARS + 4))).encode(): "than the limit",
        json.dumps(split("/etc/passwd")).encode(): "row 0",
    }
    for body, reason in said.items():
        status, answer = serving.post(body)
        assert (status, body[:80]) == (400, body[:80]), answer
        assert reason in answer["message"], (body[:80], answer["message"][-300:])
        assert "/tmp" not in answer["message"]
    assert serving.post(split(good))[0] == 200


def test_the_text_of_the_docker_file(server: tuple[Serving, Bundle], tmp_path: Path) -> None:
    serving, _ = server
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "models",
        "generate-dockerfile",
        "-m",
        "models:/pneumo@champion",
    ]
    subprocess.run(
        [*command, "-d", str(tmp_path / "image")],
        check=True,
        env={**os.environ, **serving.environment},
        capture_output=True,
    )
    text = (tmp_path / "image" / "Dockerfile").read_text()
    assert "COPY model_dir /opt/ml/model" in text and "ENTRYPOINT" in text
    copied = {path.name for path in (tmp_path / "image" / "model_dir").iterdir()}
    assert {"MLmodel", "model.safetensors", "model.json", "requirements.txt"} <= copied
    assert not [name for name in copied if name.endswith((".pkl", ".pth"))]
