"""Tar shards of clips: listed, fetched, scanned, and the order that reads few at a time."""
