"""A page on 127.0.0.1 to try a model: drop an X-ray, see the probability and how far to trust it.

Starlette serves it, which MLflow installs anyway. The page is one file; it loads no script, font or picture
from elsewhere. No image is kept: each is in a temporary file only while it is read.
"""

import base64
import io
import json
import secrets
import socket
import tempfile
import threading
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
from PIL import Image

from pneumo import UserError
from pneumo.data.images import MAX_BYTES, BadImage, Grey
from pneumo.inference.predictor import DISCLAIMER, Prediction, Predictor, PreparedImage
from pneumo.inference.time_limit import TimeLimit

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

HOST = "127.0.0.1"
SHOWN_PIXELS = 720
EXPLANATION = "Regions that raised the score, by Grad-CAM. They do not prove that the model is right."
MOST_SECONDS = 20.0  # to read a file; the largest X-rays take two
FILES_AT_ONCE = 40  # that are read; Starlette has as many threads
NO_CACHE = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


def serve(predictor: Predictor, port: int) -> int:
    """Serve the page until Ctrl-C; port 0 takes any free port. UserError if the port is taken."""
    try:
        import uvicorn
    except ImportError:
        raise UserError("ui=true needs starlette and uvicorn: pip install 'pneumo[ui]'.") from None
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
        except OSError as error:
            raise UserError(
                f"port={port} on {HOST}: {error.strerror}; give another port, or port=0 for any free one."
            ) from None
        print(f"Open http://{HOST}:{listener.getsockname()[1]}  (stop with Ctrl-C)", flush=True)
        settings = uvicorn.Config(
            application(predictor), log_level="warning", access_log=False, server_header=False
        )
        uvicorn.Server(settings).run(sockets=[listener])
    return 0


def application(predictor: Predictor) -> "Starlette":
    """The page, and `POST /predict` with a file's bytes as the body."""
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.responses import HTMLResponse, JSONResponse
    from starlette.routing import Route

    one_at_a_time = threading.Lock()
    time_limit = TimeLimit(MOST_SECONDS, FILES_AT_ONCE)

    async def page(request: "Request") -> "Response":
        nonce = secrets.token_urlsafe(16)
        policy = (
            f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src data:; "
            "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
        )
        headers = {"Content-Security-Policy": policy, "Referrer-Policy": "no-referrer", **NO_CACHE}
        return HTMLResponse(_page(predictor, nonce), headers=headers)

    async def predict(request: "Request") -> "Response":
        # A page of another site could send a file here, but browsers do not let it set this header.
        if request.headers.get("x-pneumo") != "page":
            return JSONResponse({"error": "only this page may ask for predictions"}, 403, NO_CACHE)
        with tempfile.TemporaryDirectory(prefix="pneumo-") as folder:
            file, size = Path(folder) / "image", 0
            with file.open("wb") as sink:
                async for part in request.stream():
                    size += len(part)
                    if size > MAX_BYTES:
                        return JSONResponse(
                            {"error": f"more bytes than the limit of {MAX_BYTES:,}"}, 413, NO_CACHE
                        )
                    sink.write(part)
            try:
                # Others do not wait for a file that is slow to read.
                prepared = await run_in_threadpool(time_limit.run, file, partial(read, file))
            except BadImage as error:
                return JSONResponse({"error": error.reason}, 400, NO_CACHE)
        return JSONResponse(await run_in_threadpool(answer_alone, prepared), headers=NO_CACHE)

    def read(file: Path) -> PreparedImage:
        return predictor.prepare(file, keep_grey=True)

    def answer_alone(prepared: PreparedImage) -> dict[str, Any]:
        with one_at_a_time:
            return answer(predictor, prepared)

    routes = [Route("/", page), Route("/predict", predict, methods=["POST"])]
    # Refuses other host names that were made to point to this machine.
    hosts = Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])
    return Starlette(routes=routes, middleware=[hosts])


def answer(predictor: Predictor, prepared: PreparedImage) -> dict[str, Any]:
    """What the page shows about one file, for JSON; pictures are data URIs."""
    (prediction,) = predictor.predictions([""], [prepared])
    shown = _shown_of_many if predictor.bundle.many else _shown_of_two
    shown = _shown_of_findings if predictor.bundle.multilabel else shown
    return {
        **shown(predictor, prediction),
        "image": _data_uri(prepared.grey),
        "overlay": _overlay(predictor, prepared, prediction),
    }


def _shown_of_two(predictor: Predictor, prediction: Prediction) -> dict[str, Any]:
    left_out = ("path", "error", "overlay", "classes", "skipped", "study_uid", "sop_uid")
    shown = {key: value for key, value in asdict(prediction).items() if key not in left_out}
    shown["decision"] = prediction.decision or None
    return {**shown, "past": predictor.similar_cases(prediction)}


def _shown_of_many(predictor: Predictor, prediction: Prediction) -> dict[str, Any]:
    chances = [one.probability for one in prediction.classes]
    called = chances.index(max(chances))
    return {
        **_shown_of_all(prediction),
        "past": predictor.similar_cases(prediction, called),
        "explained": predictor.explained(prediction),
    }


def _shown_of_findings(predictor: Predictor, prediction: Prediction) -> dict[str, Any]:
    """As `_shown_of_many`; the cases are those of the finding whose regions are shown."""
    explained = predictor.explained(prediction)
    label = predictor.bundle.class_names.index(explained)
    return {
        **_shown_of_all(prediction),
        "reached": None if prediction.withheld else prediction.reached,
        "past": predictor.similar_cases(prediction, label),
        "explained": explained,
    }


def _shown_of_all(prediction: Prediction) -> dict[str, Any]:
    return {
        "prediction": None if prediction.withheld else prediction.decision,
        "classes": [
            {
                "name": one.name,
                "probability": one.probability,
                "threshold": one.threshold,
                "reached": one.reached,
            }
            for one in prediction.classes
        ],
        "model": prediction.model,
        "warnings": prediction.warnings,
        "withheld": prediction.withheld,
        "differences": prediction.differences,
        "answer": prediction.answer,
        "window": prediction.window,
        "prediction_set": prediction.prediction_set,
    }


def _overlay(predictor: Predictor, prepared: PreparedImage, prediction: Prediction) -> str | None:
    """The map laid over the image; None if captum is not installed."""
    try:
        (heat,) = predictor.overlays([prediction], prepared.square[None].copy())
    except UserError:
        return None
    return _data_uri(predictor.overlay_on(prediction, prepared, heat))


def _data_uri(picture: "Grey | Image.Image") -> str:
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    image.thumbnail((SHOWN_PIXELS, SHOWN_PIXELS))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _page(predictor: Predictor, nonce: str) -> str:
    bundle = predictor.bundle
    facts = [f"{bundle.model['name']} at {bundle.image_size} x {bundle.image_size} pixels"]
    if auroc := bundle.figures.get("auroc"):
        value, low, high = auroc["value"], auroc["low"], auroc["high"]
        if value is not None and low is not None and high is not None:
            area = "macro AUROC" if bundle.many else "AUROC"
            area = "mean AUROC" if bundle.multilabel else area
            facts.append(
                f"{area} on {bundle.scored_on} {value:.3f} (95\u00a0% interval {low:.3f} to {high:.3f})"
            )
    template = (Path(__file__).parent / "web_page.html").read_text()
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    # The class's name is also in a string of the script: no character may end that string.
    positive = json.dumps(bundle.class_names[1])[1:-1]
    return environment.from_string(template).render(
        nonce=nonce,
        model=bundle.version,
        facts=", ".join(facts),
        many=bundle.many,
        findings=bundle.multilabel,
        positive="".join(sign for sign in positive if sign.isalnum() or sign in " _-"),
        chosen_on=bundle.chosen_on,
        coverage=predictor.coverage,
        shifted=predictor.shift is not None,
        disclaimer=DISCLAIMER,
        explanation=EXPLANATION,
        max_bytes=MAX_BYTES,
        notes=predictor.notes(),
    )
