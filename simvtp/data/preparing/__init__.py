"""Clips checked, encoded anew and packed into shards."""
