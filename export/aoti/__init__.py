"""A model folder as graphs that torch's AOTInductor compiled: written and proven."""

from export.aoti.command import build_parser, main
from export.aoti.folder import compile_folder, compile_model
from export.aoti.settings import AotiSettings

__all__ = ["AotiSettings", "build_parser", "compile_folder", "compile_model", "main"]
