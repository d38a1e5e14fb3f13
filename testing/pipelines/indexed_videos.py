"""Lengths and captions of a few videos, and the rows of their index."""

# Frames at 10 a second; windows of 0.8 s, one every 0.4 s.
LENGTHS = {"a.mp4": 31, "b.mkv": 6, "c/c.mp4": 24, "c/d's.mp4": 12, "e.mp4": 60, "f.mp4": 9}


CAPTIONS = {"a.mp4": "a red ball rolls", "c/c.mp4": "two cats sleep\nthe cats are tired"}


def rows(index, *left_out):
    """Every row, in order."""
    whole = index.moments().read_all().to_pylist()
    return [{name: row[name] for name in row if name not in left_out} for row in whole]
