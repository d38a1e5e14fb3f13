"""Clips of one video: read, cropped, changed at random, kept decoded."""
