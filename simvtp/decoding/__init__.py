"""Clips read from video files with PyAV and numpy alone, for training, evaluation and serving.

Nothing here imports torch or another part of simvtp: a server runs a copy of this folder.
"""
