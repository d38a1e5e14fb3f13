"""What the model does not see: tubes of video and words of captions."""

from simvtp.masking.running_cell import RunningCellMasker
from simvtp.masking.text import TextMask, TextMasker
from simvtp.masking.tube import TubeMask, TubeMasker

__all__ = ["RunningCellMasker", "TextMask", "TextMasker", "TubeMask", "TubeMasker"]
