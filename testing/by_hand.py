"""Cases that run only where they are asked for: SIMVTP_ALL_FAULTS, SIMVTP_KILLS."""

import os
from collections.abc import Sequence

import pytest
from _pytest.mark import MarkDecorator, ParameterSet


def by_hand(*values: object, marks: Sequence[MarkDecorator] = ()) -> ParameterSet:
    """A case like another one, which runs only where SIMVTP_ALL_FAULTS is set."""
    left_out = "SIMVTP_ALL_FAULTS" not in os.environ
    reason = "SIMVTP_ALL_FAULTS=1 runs all cases"
    return pytest.param(*values, marks=[pytest.mark.skipif(left_out, reason=reason), *marks])


KILLS = int(os.environ.get("SIMVTP_KILLS", "0"))
