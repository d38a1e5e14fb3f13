"""Measurements of the library against plain references."""
