"""The page to try a model, asked in this process; tests/services drives it in a browser."""

import asyncio
import json
import socket
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.images import GREY, encoded, save
from support.model_runs import FINDINGS, THREE

from pneumo import UserError
from pneumo.inference import explain, model_folder, web_page
from pneumo.inference.predictor import DISCLAIMER, Predictor
from pneumo.inference.schema import Figure

pytest.importorskip("starlette", reason="starlette is not installed: pip install 'pneumo[ui]'")


@pytest.fixture
def predictor(made: Path) -> Predictor:
    return Predictor(model_folder.read(made))


def answered(predictor: Predictor, file: Path) -> dict[str, Any]:
    return web_page.answer(predictor, predictor.prepare(file, keep_grey=True))


def ask(
    predictor: Predictor, method: str, path: str, body: bytes = b"", **headers: str
) -> tuple[int, dict[str, str], str]:
    """Status, headers and text of the reply to one request."""
    return asyncio.run(reply(web_page.application(predictor), method, path, body, **headers))


async def reply(
    application: Any, method: str, path: str, body: bytes = b"", **headers: str
) -> tuple[int, dict[str, str], str]:
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    fields = {"host": "127.0.0.1", **{name.replace("_", "-"): value for name, value in headers.items()}}
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in fields.items()],
    }
    await application(scope, receive, send)
    got = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], got, b"".join(message.get("body", b"") for message in sent[1:]).decode()


def test_the_page_shows_what_the_model_is_and_loads_nothing(predictor: Predictor) -> None:
    predictor.bundle.figures["auroc"] = Figure(value=0.9, low=0.8, high=0.95)
    status, headers, text = ask(predictor, "GET", "/")
    assert status == 200 and "text/html" in headers["content-type"]
    assert "default-src 'none'" in headers["content-security-policy"]
    assert headers["cache-control"] == "no-store"
    assert DISCLAIMER in text and all(note in text for note in predictor.notes())
    assert "resnet18 at 32 x 32 pixels, AUROC on the test images 0.900" in text
    assert "http" not in text.replace("http-equiv", "")
    predictor.bundle.class_names = ["NORMAL", "';alert(1)//"]
    assert "alert(1)" not in ask(predictor, "GET", "/")[2]
    del predictor.bundle.figures["auroc"]
    assert "AUROC" not in ask(predictor, "GET", "/")[2]


def test_the_page_of_a_recalibrated_model_names_the_images_of_the_site(made: Path) -> None:
    site = {"parent": "pneumo 3", "digest": "d", "images": 90, "patients": 80, "patients_known": True}
    bundle = replace(model_folder.read(made), site={**site, "kept": [], "unlike": 2})
    status, _, text = ask(Predictor(bundle), "GET", "/")
    assert status == 200 and "This model is pneumo 3, recalibrated on 90 images of 80 patients" in text
    assert "AUROC on 90 images of 80 patients of the site (cross-fitted)" in text
    assert "' images of the site with the nearest" in text and "validation" not in text


def test_an_answer_is_the_predictors(predictor: Predictor, tmp_path: Path) -> None:
    file = save(GREY, tmp_path / "x.png")
    (expected,) = predictor.predictions([""], [predictor.prepare(file)])
    answer = answered(predictor, file)
    assert (answer["probability"], answer["decision"]) == (expected.probability, expected.decision)
    assert answer["past"] == predictor.bundle.similar_cases(answer["probability"])
    assert answer["image"].startswith("data:image/png;base64,")
    assert answer.keys() == {
        *("probability", "decision", "threshold", "model", "warnings", "past", "image", "overlay"),
        *("withheld", "differences", "answer", "prediction_set", "window"),
    }


def test_no_overlay_where_captum_is_missing(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object) -> None:
        raise UserError("explain=true needs captum")

    monkeypatch.setattr(explain, "overlay", missing)
    assert answered(predictor, save(GREY, tmp_path / "x.png"))["overlay"] is None


def test_what_cannot_be_answered_gets_its_status(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    status, headers, text = ask(predictor, "POST", "/predict", encoded(GREY, "PNG"), x_pneumo="page")
    assert status == 200 and '"decision"' in text and headers["cache-control"] == "no-store"
    status, _, text = ask(predictor, "POST", "/predict", b"no image", x_pneumo="page")
    assert status == 400 and "not a JPEG, PNG, TIFF" in text
    assert ask(predictor, "POST", "/predict", b"x", x_pneumo="other")[0] == 403
    assert ask(predictor, "GET", "/", host="evil.example")[0] == 400
    monkeypatch.setattr(web_page, "MAX_BYTES", 10)
    status, _, text = ask(predictor, "POST", "/predict", b"x" * 11, x_pneumo="page")
    assert status == 413 and "the limit of 10" in text


class Slow(Predictor):
    """Reads a file of the bytes `slow` only when it may."""

    def __init__(self, made: Path) -> None:
        super().__init__(model_folder.read(made))
        self.may = threading.Event()

    def prepare(self, path: Path, **keys: Any) -> Any:
        if path.read_bytes() == b"slow":
            self.may.wait(60)
        return super().prepare(path, **keys)


def test_a_file_that_is_slow_to_read_blocks_no_other(made: Path) -> None:
    slow = Slow(made)

    async def both() -> tuple[int, str, int]:
        application = web_page.application(slow)
        waiting = asyncio.create_task(reply(application, "POST", "/predict", b"slow", x_pneumo="page"))
        await asyncio.sleep(0.2)
        other = await reply(application, "POST", "/predict", encoded(GREY, "PNG"), x_pneumo="page")
        assert not waiting.done()
        slow.may.set()
        status, _, text = await waiting
        return status, text, other[0]

    status, text, other = asyncio.run(both())
    assert other == 200 and status == 400 and "not a JPEG, PNG, TIFF" in text


def test_a_file_has_a_time_limit(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow(made)
    monkeypatch.setattr(web_page, "MOST_SECONDS", 0.3)
    application = web_page.application(slow)

    async def first() -> tuple[int, dict[str, str], str]:
        found = await reply(application, "POST", "/predict", b"slow", x_pneumo="page")
        slow.may.set()
        return found

    status, _, text = asyncio.run(first())
    assert status == 400 and "it took more than 0.3 seconds to read" in text


def test_a_port_that_is_taken_is_named(predictor: Predictor) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=f"port={port} on 127.0.0.1: Address already in use"):
            web_page.serve(predictor, port)


def test_the_page_of_three_classes_lists_them(made_of_three: Path, tmp_path: Path) -> None:
    of_three = Predictor(model_folder.read(made_of_three))
    text = ask(of_three, "GET", "/")[2]
    assert "macro AUROC on the test images" in text and 'id="classes"' in text
    assert 'id="threshold"' not in text and "innerHTML" not in text, "names of classes are set as text alone"
    file = save(GREY, tmp_path / "x.png")
    (expected,) = of_three.predictions([""], [of_three.prepare(file)])
    answer = answered(of_three, file)
    assert answer.keys() == {
        *("prediction", "classes", "model", "warnings", "past", "explained", "image", "overlay"),
        *("withheld", "differences", "answer", "prediction_set", "window"),
    }
    assert answer["prediction"] == answer["explained"] == expected.decision
    assert [one["name"] for one in answer["classes"]] == [*THREE]
    for shown, one in zip(answer["classes"], expected.classes, strict=True):
        assert (shown["probability"], shown["reached"]) == (one.probability, one.reached)
    called = THREE.index(expected.decision)
    chance = expected.classes[called].probability
    assert answer["past"] == of_three.bundle.similar_cases(chance, called)
    asked = Predictor(of_three.bundle, explain_class=THREE[0])
    assert answered(asked, file)["explained"] == THREE[0]
    status, _, reply = ask(of_three, "POST", "/predict", encoded(GREY, "PNG"), x_pneumo="page")
    assert status == 200 and json.loads(reply)["prediction"] == expected.decision


def test_the_page_of_findings_lists_them(made_of_findings: Path, tmp_path: Path) -> None:
    predictor = Predictor(model_folder.read(made_of_findings))
    text = ask(predictor, "GET", "/")[2]
    assert "mean AUROC on the test images" in text and "<th>finding</th>" in text
    assert "sum 100" not in text and "largest probability" not in text and "innerHTML" not in text
    assert "none without, Hernia: the threshold is 0.5" in text
    file = save(GREY, tmp_path / "x.png")
    (expected,) = predictor.predictions([""], [predictor.prepare(file)])
    answer = answered(predictor, file)
    assert answer.keys() == {
        *("prediction", "reached", "classes", "model", "warnings", "past", "explained", "image", "overlay"),
        *("withheld", "differences", "answer", "prediction_set", "window"),
    }
    assert (answer["prediction"], answer["reached"]) == (expected.decision, expected.reached)
    assert [one["name"] for one in answer["classes"]] == [*FINDINGS]
    chances = [one["probability"] for one in answer["classes"]]
    most = int(np.argmax(chances))
    assert answer["explained"] == FINDINGS[most]
    assert answer["past"] == predictor.bundle.similar_cases(chances[most], most)
    asked = Predictor(predictor.bundle, explain_class=FINDINGS[1])
    other = answered(asked, file)
    assert other["explained"] == FINDINGS[1]
    assert other["past"] == predictor.bundle.similar_cases(chances[1], 1)
    status, _, reply = ask(predictor, "POST", "/predict", encoded(GREY, "PNG"), x_pneumo="page")
    assert status == 200 and json.loads(reply)["reached"] == expected.reached


def test_a_decision_that_is_withheld_is_null_on_the_page(
    made: Path, made_of_three: Path, tmp_path: Path
) -> None:
    photo = save(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8), tmp_path / "x.png")
    for folder, key in ((made, "decision"), (made_of_three, "prediction")):
        answer = answered(Predictor(model_folder.read(folder)), photo)
        assert answer[key] is None and "colour in" in answer["withheld"]
