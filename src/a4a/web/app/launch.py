"""`a4a web`: serves the page, on this machine alone unless it asks for a password."""

import ipaddress
import os
import signal
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any

from a4a.errors import InputError

QUEUE = 32
"""Pictures that may wait; whoever comes then is told so."""
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; worker-src 'self' blob:; "
    "frame-src 'self'; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)
"""A browser asks nobody but this server."""


def web(
    model: str | None = None,
    adapter: str | None = None,
    image_encoder: str | None = None,
    source: str | None = None,
    host: str = "127.0.0.1",
    port: int = 7860,
    auth: str | None = None,
    report: Path | None = None,
) -> None:
    """Serve a page that draws with an adapter; without a model, with those of the zoo.

    Args:
        model: The diffusers pipeline that the adapter is for: folder, hub name, or zoo:NAME.
        adapter: Adapter folder, published IP-Adapter file, hub name, or zoo:NAME.
        image_encoder: CLIP vision model of the adapter; by default the one that the adapter names.
        source: Which of its sources the adapter is used with, by the name in its recipe, where it has several.
        host: Address to listen at; anything but this machine's own (127.0.0.1) needs auth.
        port: Port to listen at; 0 takes a free one.
        auth: USER:PASSWORD that visitors must give, or a file with one such line for each of them.
        report: Folder of a4a report that the last tab shows; by default the recorded runs of this repository.
    """
    if (model is None) != (adapter is None):
        raise InputError("--model and --adapter go together: give both, or neither for the zoo.")
    visitors = read_auth(auth)
    check_host(host, visitors)
    with (
        _listen(host, port) as listening,
        tempfile.TemporaryDirectory(prefix="a4a-web-", ignore_cleanup_errors=True) as folder,
    ):
        _stay_private(Path(folder))
        from a4a.web.app.page import build_page  # gradio reads its settings when it is imported
        from a4a.web.app.report_tab import find_report
        from a4a.web.app.transfers import Transfers

        recorded = find_report(report)
        studio = _open_studio(model, adapter, image_encoder, source)
        transfers = Transfers(Path(folder) / "transfers", studio.catalogue.stages)
        try:
            _serve(build_page(studio, transfers, recorded), listening, visitors)
        finally:
            transfers.close()
            studio.thread.close()


def check_host(host: str, visitors: list[tuple[str, str]] | None) -> None:
    """InputError for an address that others can reach, unless visitors need a password."""
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError as error:
        raise InputError(f"--host is {host}; give an IP address such as 127.0.0.1 or 0.0.0.0.") from error
    if not loopback and visitors is None:
        raise InputError(f"--host {host} can be reached from other machines; give --auth USER:PASSWORD, too.")


def read_auth(auth: str | None) -> list[tuple[str, str]] | None:
    """Users and passwords; InputError where a line is not USER:PASSWORD."""
    if auth is None:
        return None
    lines = Path(auth).read_text().split() if Path(auth).is_file() else [auth]
    pairs = [line.partition(":") for line in lines]
    if not pairs or not all(user and password for user, _, password in pairs):
        raise InputError("--auth is not USER:PASSWORD, nor a file with one such line for each visitor.")
    return [(user, password) for user, _, password in pairs]


def _stay_private(folder: Path) -> None:
    """Before anything is imported: gradio's files go to our folder, and nothing is reported to anybody."""
    os.environ["GRADIO_TEMP_DIR"] = str(folder / "pictures")
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_SHARE"] = "False"
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # of onnxruntime, which diffusers imports where it is installed
    try:
        import gradio  # noqa: F401
    except ModuleNotFoundError as error:
        raise InputError("a4a web needs gradio; install it by: pip install 'a4a[web]'") from error


def _open_studio(model: str | None, adapter: str | None, image_encoder: str | None, source: str | None) -> Any:
    """Loads the model that the page begins with: a given one before it is served, that of the zoo meanwhile."""
    from a4a.web.app.catalogue import given_catalogue, given_choice, zoo_catalogue
    from a4a.web.app.drawing import DrawingThread
    from a4a.web.app.models import Models
    from a4a.web.app.session import Studio

    models, thread = Models(), DrawingThread()
    if model is None or adapter is None:
        catalogue = zoo_catalogue()
        first = catalogue.models[0]
        thread.run(lambda: models.pipeline(first, first.adapters[0]))
    else:
        choice = given_choice(model, adapter, image_encoder, source)
        pipe = thread.run(lambda: models.pipeline(choice, choice.adapters[0])).result()
        catalogue = given_catalogue(choice, pipe.backbone)
    return Studio(catalogue, models, thread)


def _serve(page: Any, listening: socket.socket, visitors: list[tuple[str, str]] | None) -> None:
    """Serves until a signal comes; then the page's own threads are ended, too."""
    import gradio
    import uvicorn
    from fastapi import FastAPI
    from starlette.middleware import Middleware

    from a4a.web.app.style import CSS, HEAD, theme
    from a4a.web.app.uploads import MAX_BYTES

    page.queue(max_size=QUEUE, default_concurrency_limit=1)
    app = FastAPI(middleware=[Middleware(ContentPolicy)], docs_url=None, redoc_url=None, openapi_url=None)
    gradio.mount_gradio_app(
        app,
        page,
        "/",
        auth=visitors,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        run_history=False,
        enable_monitoring=False,
        show_error=True,
        max_file_size=MAX_BYTES,
        footer_links=["api"],
        theme=theme(),
        css=CSS,
        head=HEAD,
    )
    page.has_launched = True  # else gradio lets requests name any file of this machine
    # uvicorn ends at SIGTERM, and then raises it once more: it must not end the process before all is cleared away
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=2)
    host, port = listening.getsockname()[:2]
    print(f"The page is at http://{f'[{host}]' if ':' in host else host}:{port} (Ctrl-C ends it).", flush=True)
    try:
        uvicorn.Server(config).run(sockets=[listening])
    finally:
        page.close(verbose=False)


def _listen(host: str, port: int) -> socket.socket:
    """A socket that nobody else has; InputError where there is none."""
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        raise InputError(f"--port {port} of {host} cannot be used ({error.strerror}); choose another one.") from error
    return listening


class ContentPolicy:
    """Adds POLICY to every answer, and refuses to fetch addresses: `/file=https://...` is gradio's way to another host."""

    def __init__(self, app: Any):
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        from starlette.responses import PlainTextResponse

        async def with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"content-security-policy", POLICY.encode())]
            await send(message)

        app = PlainTextResponse("Not found", 404) if "=http" in scope.get("path", "").lower() else self.app
        await app(scope, receive, with_policy if scope["type"] == "http" else send)
