"""The model of a run on several ranks, put together for evaluation and for the model folder."""

from simvtp.model import SimVTP
from simvtp.objective import Objective
from simvtp.training import gather_parameters, is_main, is_sharded


def whole_model(objective: Objective) -> SimVTP | None:
    """The objective's model, gathered if it is sharded; all ranks must ask, rank 0 gets it."""
    model = objective.model
    if not is_sharded(objective):
        return model if is_main() else None
    parameters = gather_parameters(objective)
    if not is_main():
        return None
    prefix = "model."
    own = {name: value for name, value in parameters.items() if name.startswith(prefix)}
    weights = {name.removeprefix(prefix): value for name, value in own.items()}
    return model.rebuilt(weights=weights).to(model.device)
