"""The embedded corpus: scenes, their drawing, the cache they are rendered into."""
