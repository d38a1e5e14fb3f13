"""Samples for training and evaluation, and what becomes of clips that cannot be read."""
