"""Searching videos by words, pictures and clips; needs `simvtp[search]`."""

from simvtp.pipelines.search.searcher import Found, Searcher

__all__ = ["Found", "Searcher"]
