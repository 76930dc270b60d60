"""A page on 127.0.0.1 to try a model: drop an X-ray, see what the model says and how far to believe it.

Starlette serves it: MLflow brings it along, it asks nobody for anything, and the page is one file without
any script, font or picture from elsewhere. No image is kept: each lies in a temporary file while it is read.
"""

import base64
import io
import json
import secrets
import socket
import tempfile
import threading
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from pneumo import UserError
from pneumo.data.images import MAX_BYTES, BadImage, Grey
from pneumo.inference.predictor import NO_DEVICE, Predictor, Prepared

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

HOST = "127.0.0.1"
SHOWN_PIXELS = 720
EXPLAINED = (
    "Where the score came from, by Grad-CAM. This is no proof: it does not show that the model is right."
)


def serve(predictor: Predictor, port: int) -> int:
    """Serve the page until Ctrl-C; port 0 takes any that is free. UserError for a port that is taken."""
    try:
        import uvicorn
    except ImportError:
        raise UserError("ui=true needs starlette and uvicorn: pip install 'pneumo[ui]'.") from None
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
        except OSError as error:
            raise UserError(f"port={port} on {HOST}: {error.strerror}; give another, or port=0.") from None
        print(f"Open http://{HOST}:{listener.getsockname()[1]}  (Ctrl-C ends it)", flush=True)
        settings = uvicorn.Config(
            application(predictor), log_level="warning", access_log=False, server_header=False
        )
        uvicorn.Server(settings).run(sockets=[listener])
    return 0


def application(predictor: Predictor) -> "Starlette":
    """The page and its one question, `POST /predict` with the file's bytes as the body."""
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.responses import HTMLResponse, JSONResponse
    from starlette.routing import Route

    one_at_a_time = threading.Lock()

    async def page(request: "Request") -> "Response":
        nonce = secrets.token_urlsafe(16)
        policy = (
            f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src data:; "
            "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
        )
        headers = {"Content-Security-Policy": policy, "Referrer-Policy": "no-referrer", **NO_CACHE}
        return HTMLResponse(_page(predictor, nonce), headers=headers)

    async def predict(request: "Request") -> "Response":
        # Another site's page could send a file here, but no header of its own without our leave.
        if request.headers.get("x-pneumo") != "page":
            return JSONResponse({"error": "only this page may ask"}, 403, NO_CACHE)
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
                said = await run_in_threadpool(_asked, file)
            except BadImage as error:
                return JSONResponse({"error": error.reason}, 400, NO_CACHE)
        return JSONResponse(said, headers=NO_CACHE)

    def _asked(file: Path) -> dict[str, Any]:
        with one_at_a_time:
            return answer(predictor, file)

    routes = [Route("/", page), Route("/predict", predict, methods=["POST"])]
    # A name that is made to point here, from a page elsewhere, is refused.
    hosts = Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])
    return Starlette(routes=routes, middleware=[hosts])


NO_CACHE = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


def answer(predictor: Predictor, file: Path) -> dict[str, Any]:
    """What the page shows of one file, as JSON; pictures as data URIs. Raises BadImage."""
    prepared = predictor.prepare(file, keep_grey=True)
    (row,) = predictor.rows([""], [prepared])
    assert row.probability is not None
    shown = {key: value for key, value in asdict(row).items() if key not in ("path", "error", "overlay")}
    return {
        **shown,
        "past": predictor.bundle.past_at(row.probability),
        "image": _data_uri(prepared.grey),
        "overlay": _overlay(predictor, prepared),
    }


def _overlay(predictor: Predictor, prepared: Prepared) -> str | None:
    """The map laid over the square that the model saw; none where captum is not installed."""
    from pneumo.inference import explain

    try:
        (heat,) = explain.overlay(predictor.bundle, prepared.square[None].copy(), predictor.network)
    except UserError:
        return None
    with tempfile.TemporaryDirectory(prefix="pneumo-") as folder:
        explain.write(Path(folder) / "overlay.png", prepared.square, heat)
        with Image.open(Path(folder) / "overlay.png") as picture:
            return _data_uri(picture.copy())


def _data_uri(picture: "Grey | Image.Image") -> str:
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    image.thumbnail((SHOWN_PIXELS, SHOWN_PIXELS))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _page(predictor: Predictor, nonce: str) -> str:
    import jinja2

    bundle = predictor.bundle
    auroc = bundle.figures.get("auroc") or {}
    facts = [f"{bundle.model['name']} at {bundle.image_size} x {bundle.image_size} pixels"]
    value, low, high = (auroc.get(key) for key in ("value", "low", "high"))
    if value is not None and low is not None and high is not None:
        facts.append(f"AUROC on the test images {value:.3f} (95\u00a0% interval {low:.3f} to {high:.3f})")
    template = (Path(__file__).parent / "web_page.html").read_text()
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    # The class's name also stands in a text of the script: nothing there may end it.
    positive = json.dumps(bundle.class_names[1])[1:-1]
    return environment.from_string(template).render(
        nonce=nonce,
        model=bundle.version,
        facts=", ".join(facts),
        positive="".join(sign for sign in positive if sign.isalnum() or sign in " _-"),
        no_device=NO_DEVICE,
        explained=EXPLAINED,
        max_bytes=MAX_BYTES,
        notes=predictor.notes(),
    )
