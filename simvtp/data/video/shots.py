"""Where a new shot begins, by PySceneDetect, on frames that are decoded anyway."""

from typing import Any

import numpy as np

from simvtp.extras import needs

# Two cuts within this many seconds are a flash.
_SHORTEST_SECONDS = 0.5


class ShotDetector:
    """Compares each frame with the one before it, in hue, saturation and brightness.

    Raises:
        MissingPackageError: PySceneDetect is not there.
    """

    def __init__(self) -> None:
        with needs("search", "telling shots apart"):
            from scenedetect.common import FrameTimecode
            from scenedetect.detectors import ContentDetector
        # By times that are true in videos of any rate, flashes are told from cuts below.
        self._detector: Any = ContentDetector(min_scene_len=0)
        self._timecode = FrameTimecode(0, 1.0)
        self._latest = 0.0

    def begins_shot(self, picture: np.ndarray, time: float) -> bool:
        """Whether a new shot begins with this picture.

        Args:
            picture: `(height, width, 3)` uint8 in RGB, the next one of the video.
            time: its time, seconds.
        """
        reverse = np.ascontiguousarray(picture[..., ::-1])
        cut = bool(self._detector.process_frame(self._timecode, reverse))
        if cut and time - self._latest >= _SHORTEST_SECONDS:
            self._latest = time
            return True
        return False
