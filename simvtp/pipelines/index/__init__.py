"""Moments of videos in a data base: the command that makes an index or goes on with one."""

from simvtp.pipelines.index.command import build_parser, main

__all__ = ["build_parser", "main"]
