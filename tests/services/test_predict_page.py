"""The page to try a model, served by its own command, in a real browser: drop an X-ray, read what it says."""

import base64
import importlib.util
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import odd_files
from support.browser import BROWSER, FLAGS
from support.commands import environment
from support.model_runs import FINDINGS, THREE, make

from pneumo.inference import model_folder

pytestmark = pytest.mark.services

# Drops files into the page like a user, in a frame with the same origin. The title then holds the results.
PROBE = """<!doctype html><title>-</title><iframe src="/" width=390 height=900 frameborder=0></iframe>
<script>
const wait = ms => new Promise(done => setTimeout(done, ms));
document.querySelector('iframe').onload = async event => {
  const page = event.target.contentDocument, view = event.target.contentWindow;
  const at = id => page.getElementById(id), seen = {};
  for (const [name, text] of FILES) {
    const bytes = Uint8Array.from(atob(text), sign => sign.charCodeAt(0));
    const data = new view.DataTransfer();
    data.items.add(new view.File([bytes], name));
    const drop = { dataTransfer: data, bubbles: true, cancelable: true };
    page.dispatchEvent(new view.DragEvent('drop', drop));
    for (let turn = 0; turn < 400 && at('state').textContent.startsWith('Reading'); turn++) await wait(50);
    await wait(200);
    seen[name] = {
      state: at('state').textContent, shown: !at('result').hidden,
      probability: at('probability').textContent, decision: at('decision').textContent,
      past: at('past').textContent, image: at('image').naturalWidth,
      overlay: at('explained').hidden ? 0 : at('overlay').naturalWidth,
      warnings: [...at('warnings').querySelectorAll('li')].map(item => item.textContent),
      withheld: at('withheld').hidden ? '' : at('reason').textContent, answered: !at('answer').hidden,
      warned: !at('warnings').hidden, width: page.documentElement.scrollWidth,
      classes: [...page.querySelectorAll('#classes tr')].map(
        row => [...row.cells].map(cell => cell.textContent).join('\\t')),
    };
  }
  const loaded = view.performance.getEntriesByType('resource').map(entry => entry.name);
  document.title = btoa(unescape(encodeURIComponent(
    JSON.stringify({ seen, text: page.body.innerText, loaded }))));
};
</script>"""


@pytest.fixture(scope="module")
def address(made_models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("page")
    line = [sys.executable, "-m", "pneumo.predict", "ui=true", "port=0", f"model={made_models['resnet18']}"]
    server = subprocess.Popen(
        line, cwd=folder, env=environment(folder), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    output = ""
    try:
        assert server.stdout is not None
        for text in server.stdout:
            output += text
            if match := re.search(r"Open (http://127\.0\.0\.1:\d+) ", text):
                yield match[1]
                break
        else:
            raise AssertionError(output)
        server.send_signal(signal.SIGINT)
        assert server.wait(20) in (0, 130), output
    finally:
        server.kill()


def ask(address: str, body: bytes, **headers: str) -> tuple[int, dict]:
    request = urllib.request.Request(f"{address}/predict", body, {"X-Pneumo": "page", **headers})
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        text = error.read().decode()
        return error.code, json.loads(text) if text.startswith("{") else {"error": text}


def test_it_answers_as_the_command_does(address: str, made_models: dict[str, Path], tmp_path: Path) -> None:
    from pneumo.inference.predictor import Predictor

    predictor = Predictor(model_folder.read(made_models["resnet18"]))
    picture = odd_files.encoded(odd_files.phantoms(1)[0], "PNG")
    (tmp_path / "x.png").write_bytes(picture)
    (row,) = predictor.predictions(["x"], [predictor.prepare(tmp_path / "x.png")])
    code, answer = ask(address, picture)
    assert code == 200 and answer["probability"] == pytest.approx(row.probability, abs=1e-6)
    assert (answer["decision"], answer["model"]) == (row.decision, str(made_models["resnet18"]))
    assert answer["past"] == predictor.bundle.similar_cases(answer["probability"])
    assert answer["past"]["low"] <= answer["past"]["share"] <= answer["past"]["high"]


def test_other_files_and_requests_from_other_pages_are_refused(address: str) -> None:
    for kind, name, content in odd_files.files(Path()):
        if kind in ("another kind of file", "bomb", "empty"):
            code, answer = ask(address, content)
            assert code == 400 and answer["error"] and "/tmp" not in answer["error"], name
    assert ask(address, b"x", **{"X-Pneumo": "other"})[0] == 403  # another site's page cannot set it
    assert ask(address, b"x", Host="evil.example")[0] == 400  # another site's name that points here
    port = int(address.rpartition(":")[2])
    with socket.socket() as other, pytest.raises(OSError):
        other.connect(("127.0.0.2", port))  # this machine too, but nobody listens there


@pytest.fixture
def probed(made_models: dict[str, Path]) -> Iterator[str]:
    with serving(made_models["resnet18"]) as address:
        yield address


@contextmanager
def serving(artifacts: Path) -> Iterator[str]:
    """The address of the page of a model, served by this process together with the probe."""
    import uvicorn
    from starlette.responses import HTMLResponse
    from starlette.routing import Route

    from pneumo.inference import web_page
    from pneumo.inference.predictor import Predictor

    app = web_page.application(Predictor(model_folder.read(artifacts)))
    dropped = [[name, base64.b64encode(content).decode()] for name, content in FILES.items()]
    text = PROBE.replace("FILES", json.dumps(dropped).replace("</", "<\\/"))
    app.router.routes.append(Route("/probe", lambda request: HTMLResponse(text)))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(20)


FILES = {
    "chest.jpeg": odd_files.encoded(odd_files.phantoms(1)[0], "JPEG"),
    "<img src=x onerror=alert(1)>.png": odd_files.encoded(odd_files.photo(np.random.default_rng(0)), "PNG"),
    "text.png": b"no image",
}


def probe(address: str, tmp_path: Path) -> dict[str, Any]:
    """What a browser shows for each of FILES, and the text and the sources of the page."""
    if BROWSER is None:
        pytest.skip("no chromium on this machine")
    line = [BROWSER, *FLAGS, f"--user-data-dir={tmp_path}/profile", "--virtual-time-budget=30000"]
    line += ["--window-size=600,950", "--dump-dom", f"{address}/probe"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=300)
    title = done.stdout.partition("<title>")[2].partition("</title>")[0]
    assert len(title) > 9, done.stdout[-500:] + done.stderr[-2000:]
    result: dict[str, Any] = json.loads(base64.b64decode(title))
    return result


@pytest.mark.parametrize("names", [THREE, FINDINGS], ids=["classes", "findings"])
def test_more_than_two_classes_and_findings_in_a_real_browser(names: tuple[str, ...], tmp_path: Path) -> None:
    multilabel = names == FINDINGS
    made = make(tmp_path / "run", "resnet18", classes=names, multilabel=multilabel)
    with serving(made) as address:
        result = probe(address, tmp_path)
        status, answer = ask(address, FILES["chest.jpeg"])
    good = result["seen"]["chest.jpeg"]
    assert status == 200 and good["state"] == "Done." and good["shown"] and good["width"] == 390
    cells = [row.split("\t") for row in good["classes"]]
    assert [row[0] for row in cells] == [*names]
    for row, one in zip(cells, answer["classes"], strict=True):
        assert row[2].replace("\xa0", " ") == f"{100 * one['probability']:.1f} %"
        assert (row[4] == "\u2713") is one["reached"]
    if multilabel:
        assert good["decision"] == (", ".join(answer["reached"]) or "no finding")
        assert good["probability"].startswith(f"{answer['explained']}, ")
        assert f"nearest probabilities of {answer['explained']}," in good["past"] and "had it" in good["past"]
    else:
        assert good["decision"] == answer["prediction"] and f"were {good['decision']}" in good["past"]
    assert all(name.startswith((address, "data:")) for name in result["loaded"])


def test_dropped_files_in_a_real_browser(probed: str, tmp_path: Path) -> None:
    result = probe(probed, tmp_path)
    seen = result["seen"]
    good, photo, text = (seen[name] for name in FILES)
    assert good["state"] == "Done." and good["shown"] and re.fullmatch(r"[\d.]+\s%", good["probability"])
    assert good["decision"] in ("NORMAL", "PNEUMONIA") and good["image"] > 200 and not good["warned"]
    assert good["answered"] and not good["withheld"]
    assert re.search(r"Of the \d+ validation images .* interval \d+\s% to \d+\s%", good["past"])
    assert photo["shown"] and "colour" in photo["withheld"] and not photo["answered"]
    assert not text["shown"] and "not a JPEG, PNG, TIFF" in text["state"]
    assert "Not a medical device" in result["text"] and "synthetic images" in result["text"]
    assert all(state["width"] == 390 for state in seen.values())
    assert result["loaded"] and all(name.startswith((probed, "data:")) for name in result["loaded"])
    if importlib.util.find_spec("captum"):
        assert good["overlay"] > 200
