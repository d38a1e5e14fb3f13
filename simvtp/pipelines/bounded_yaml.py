"""YAML of settings, refused before it is built where anchors or nesting blow it up."""

from typing import Any

import yaml
from jsonargparse import get_loader, set_loader

MODE = "bounded_yaml"
"""Name of the reader in jsonargparse: `ArgumentParser(parser_mode=MODE)`."""

_MOST_CHARACTERS = 1_000_000
_MOST_VALUES = 10_000
_MOST_LEVELS = 50


def load_yaml(text: str) -> Any:
    """Values in a YAML text, as jsonargparse reads them.

    Raises:
        yaml.YAMLError: it is no YAML, or too long, too deep, or too large once each alias is
            replaced by what it stands for.
    """
    _require_bounded(text)
    try:
        return get_loader("yaml")(text)
    except ValueError as error:
        # Such as a number of more digits than Python reads.
        raise yaml.YAMLError(str(error)) from error


def _require_bounded(text: str) -> None:
    if len(text) > _MOST_CHARACTERS:
        _refuse(f"has {len(text):,} characters, at most {_MOST_CHARACTERS:,} are read")
    sizes: dict[str, int] = {}
    # Values in each open list or mapping, and the anchor that stands for it.
    open_nodes: list[tuple[int, str | None]] = [(0, None)]
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    for event in yaml.parse(text, Loader=loader):
        size, anchor = 1, getattr(event, "anchor", None)
        if isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append((1, anchor))
            size = 0
        elif isinstance(event, yaml.CollectionEndEvent):
            size, anchor = open_nodes.pop()
        elif isinstance(event, yaml.AliasEvent):
            if anchor not in sizes:
                _refuse(f"has an alias *{anchor} to nothing before it, or to what holds it")
            size, anchor = sizes[str(anchor)], None
        elif not isinstance(event, yaml.ScalarEvent):
            size = 0
        if anchor is not None and not isinstance(event, yaml.CollectionStartEvent):
            sizes[anchor] = size
        total, own = open_nodes[-1]
        open_nodes[-1] = total + size, own
        if total + size > _MOST_VALUES:
            _refuse(f"stands for more than {_MOST_VALUES:,} values")
        if len(open_nodes) > _MOST_LEVELS:
            _refuse(f"is nested more than {_MOST_LEVELS} deep")


def _refuse(why: str) -> None:
    raise yaml.YAMLError(f"this YAML {why}; no settings look like that")


set_loader(MODE, load_yaml, exceptions=(yaml.YAMLError,))
