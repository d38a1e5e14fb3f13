"""The server of the search page: on loopback, for the browser and the programs of this machine."""

from contextlib import suppress

import simvtp
from simvtp.data.datasets import views
from simvtp.data.processes import import_ahead
from simvtp.extras import needs
from simvtp.printing import Console

with needs("search", "the search page"):
    import gradio
    import uvicorn
    from fastapi import FastAPI
    from fastapi.exceptions import RequestValidationError

    from simvtp.pipelines.local_requests import address_of, is_loopback, listening_socket
    from simvtp.pipelines.search.page.blocks import STYLE, THEME, search_page
    from simvtp.pipelines.search.page.guard import LocalOnly
    from simvtp.pipelines.search.page.routes import refuse, search_routes
    from simvtp.pipelines.search.page.service import Searcher, SearchService

_PATHS = ("/api/", "/openapi.json")


def search_application(searcher: Searcher) -> FastAPI:
    """Page and route as an ASGI application; it refuses whatever does not come from this machine.

    Args:
        searcher: the index and the model that answer.
    """
    service = SearchService(searcher)
    # Its documentation pages would load scripts from elsewhere.
    app = FastAPI(title="SimVTP search", version=simvtp.__version__, docs_url=None, redoc_url=None)
    app.include_router(search_routes(service))
    app.add_exception_handler(RequestValidationError, refuse)
    app = gradio.mount_gradio_app(
        app,
        search_page(service),
        path="/",
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        enable_monitoring=False,
        theme=THEME,
        css=STYLE,
    )
    app.add_middleware(LocalOnly, own=_PATHS)
    return app


def serve(searcher: Searcher, *, host: str = "127.0.0.1", port: int = 7860) -> None:
    """Serve the search page and its route until Ctrl-C.

    Args:
        searcher: the index and the model that answer.
        host: an address of this machine alone: the page has no passwords.
        port: 0 takes a free one.

    Raises:
        ValueError: the host is no loopback address, or the port is taken.
    """
    if not is_loopback(host):
        raise ValueError(
            f"the page is served on this machine alone, host must be 127.0.0.1 or ::1, got "
            f"{host!r}; from another machine reach it with ssh -L {port}:127.0.0.1:{port}"
        )
    listening = listening_socket(host, port)
    # Uploads are decoded in processes that are forked from one that has imported it all.
    import_ahead(views.__name__)
    app = search_application(searcher)
    address = address_of(listening)
    Console(soft_wrap=True).print(
        f"search page: {address} (for programs {address}/openapi.json); Ctrl-C ends it"
    )
    settings = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1)
    with listening, suppress(KeyboardInterrupt):
        uvicorn.Server(settings).run(sockets=[listening])
