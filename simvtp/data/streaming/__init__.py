"""Clips of a stream that can only be read from its start on: kept on disk while they are used."""
