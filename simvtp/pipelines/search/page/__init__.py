"""The search page and its HTTP route, on this machine only; needs `simvtp[search]`."""

from simvtp.pipelines.search.page.server import search_application, serve

__all__ = ["search_application", "serve"]
