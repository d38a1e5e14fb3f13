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
    copy = SimVTP(model.config, tokenizer=model.tokenizer, frame_spacing=model.frame_spacing)
    copy.facts = model.facts
    prefix = "model."
    own = {name: value for name, value in parameters.items() if name.startswith(prefix)}
    copy.load_state_dict({name.removeprefix(prefix): value for name, value in own.items()})
    return copy.to(model.device)
