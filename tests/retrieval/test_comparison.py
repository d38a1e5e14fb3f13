"""How two models' figures are shown beside each other."""

import io

from simvtp.metrics import Difference, Interval
from simvtp.printing import Console
from simvtp.retrieval.comparison import ComparedFigure, comparison_table


def test_a_comparison_is_read_whole_at_80_columns():
    rank = ComparedFigure(1234.5, 1043.25, Difference(191.25, Interval(-1010.5, 1020.25), 0.25))
    share = ComparedFigure(1.0, 0.0, Difference(1.0, Interval(-1.0, 1.0), 0.001))
    figures = {"recall@1": share, "recall@10": share, "median_rank": rank, "mean_rank": rank}
    method = "matched and cosine over 128, dual softmax"
    both = {"text_to_video": figures, "video_to_text": figures}
    console = Console(file=io.StringIO(), width=80)
    console.print(comparison_table({method: both}, num_clips=1000))
    said = console.file.getvalue()
    assert "…" not in said
    for line in ("diff.", "text to video, matched and", "R@10", "median rank", "1234.5", "1043.2"):
        assert line in said
    row = next(line for line in said.splitlines() if "R@1 " in line)
    for cell in ("100.0 %", "0.0 %", "+100.0", "-100.0 to +100.0", "0.001"):
        assert cell in row
