"""Manifests of clips with captions: their formats, the checks of each row, their tables."""
