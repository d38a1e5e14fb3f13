"""Pickles that hold nothing but lists, dictionaries, texts and numbers, read without running them.

A pickle is a program: most of what it can say imports and calls functions. Here only the words
that build plain values are let through, so there is nothing to import or call.
"""

import io
import pickle
import pickletools
from pathlib import Path
from typing import Any

MAX_BYTES = 256 << 20
_PLAIN = {
    *("PROTO", "FRAME", "STOP", "MARK", "POP", "POP_MARK", "DUP"),
    *("NONE", "NEWTRUE", "NEWFALSE", "INT", "BININT", "BININT1", "BININT2", "LONG1", "LONG"),
    *("FLOAT", "BINFLOAT", "STRING", "BINSTRING", "SHORT_BINSTRING"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("LIST", "EMPTY_LIST", "APPEND", "APPENDS", "TUPLE", "EMPTY_TUPLE"),
    *("TUPLE1", "TUPLE2", "TUPLE3", "DICT", "EMPTY_DICT", "SETITEM", "SETITEMS"),
    *("GET", "BINGET", "LONG_BINGET", "PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"),
}
# A text is often there once and referred to again, a list is not.
_MOST_PER_BYTE = 16
_REMEMBERED = ("PUT", "BINPUT", "LONG_BINPUT")


class _Unpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str, /) -> Any:
        raise pickle.UnpicklingError(f"it names {module_name}.{global_name}")


def read_plain_pickle(path: Path) -> Any:
    """The value in a pickle of plain values.

    Raises:
        ValueError: it holds anything else, is damaged, or is too large, also once each reference
            is replaced by what it stands for.
        OSError: it cannot be read.
    """
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"it has more than {MAX_BYTES >> 20} MB, so it is no list of captions")
    data = path.read_bytes()
    try:
        for word, value, _ in pickletools.genops(data):
            # A large number to remember a value under would take up as much memory.
            is_huge = word.name in _REMEMBERED and isinstance(value, int) and value > len(data)
            if word.name not in _PLAIN or is_huge:
                raise pickle.UnpicklingError(f"{word.name} is in it")
        value = _Unpickler(io.BytesIO(data), encoding="utf-8").load()
        _require_bounded(value, _MOST_PER_BYTE * len(data))
        return value
    # Damaged pickles raise nearly anything.
    except Exception as error:
        raise ValueError(
            f"only pickles of plain lists, dictionaries, texts and numbers are read, for others "
            f"can run code ({error}); save it as JSON {{video: [captions]}} where you trust it"
        ) from error


def _require_bounded(value: Any, most: int) -> None:
    """Refuse lists of lists that stand for more than `most` values and characters."""
    waiting, total = [value], 0
    while waiting:
        value = waiting.pop()
        total += 1 + len(value) if isinstance(value, str) else 1
        if isinstance(value, dict):
            waiting += [*value, *value.values()]
        elif isinstance(value, list | tuple):
            waiting += value
        if total + len(waiting) > most:
            raise pickle.UnpicklingError("it stands for far more than it holds")
