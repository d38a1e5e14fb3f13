"""Moments of videos in a data base, found by vector and by words; needs `simvtp[search]`."""

from simvtp.extras import needs

with needs("search", "a video index"):
    from simvtp.retrieval.video_index.identity import model_digest
    from simvtp.retrieval.video_index.index import Hit, VideoIndex
    from simvtp.retrieval.video_index.tables import VideoIndexError

__all__ = ["Hit", "VideoIndex", "VideoIndexError", "model_digest"]
