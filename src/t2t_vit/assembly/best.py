"""The best checkpoint of a run at its end: which it is, and its weights in place of the last ones."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from t2t_vit.errors import CheckpointError
from t2t_vit.evaluation.metrics import Metrics
from t2t_vit.training.checkpoint import Trained, metrics_in
from t2t_vit.training.distributed import Processes
from t2t_vit.training.retention import BestList, best_of
from t2t_vit.training.state import State
from t2t_vit.weights import read_saved_run


@dataclass(frozen=True)
class Ending:
    """What a run reports at its end.

    state     the moment that is reported: step and results are those of the weights in the network
    weights   raw or ema, whichever is better by `best_by`
    best      the best checkpoint that is kept, in the first process; None where nothing was kept
    """

    state: State
    weights: str
    best: Path | None = None

    @property
    def metrics(self) -> Metrics:
        """Of the better weights."""
        return self.state.results[self.weights]


def better(results: Mapping[str, Metrics], best_by: str) -> str:
    """Averaged weights, unless the raw ones scored higher: those that eval, infer and export take, too."""
    is_ema = "ema" in results and results["ema"].score(best_by) >= results["raw"].score(best_by)
    return "ema" if is_ema else "raw"


def last_weights(state: State, best_by: str, ranked: Mapping[str, BestList]) -> Ending:
    """The end of a run as its last step left it.

    Args:
        ranked: the best checkpoints, by the name of the weights; empty in processes other than the first.
    """
    return Ending(state, better(state.results, best_by), best_of(ranked))


def best_weights(
    trained: Trained,
    state: State,
    best_by: str,
    ranked: Mapping[str, BestList],
    processes: Processes,
    note: Callable[[str], None],
) -> Ending:
    """As `last_weights`, with the weights of the best checkpoint in the network; they are the first process's in all.

    A best checkpoint that cannot be read is named through `note`, and the last weights stay.
    """
    last = last_weights(state, best_by, ranked)
    reported = state
    if last.best is not None:
        try:
            reported = _loaded(last.best, trained, state)
        except CheckpointError as error:
            note(f"the last weights are reported, because the best ones cannot be read: {error}")
    weights = better(reported.results, best_by)
    device = next(trained.model.parameters()).device
    found = torch.tensor([reported.step, weights == "ema"], device=device)
    step, is_ema = processes.of_first(found).tolist()
    if step != state.step:
        for module in (trained.model, *([] if trained.averaged is None else [trained.averaged])):
            for tensor in module.state_dict().values():
                tensor.copy_(processes.of_first(tensor))
    return Ending(reported if processes.is_first else replace(state, step=step), "ema" if is_ema else "raw", last.best)


def _loaded(path: Path, trained: Trained, state: State) -> State:
    """The state of the checkpoint at `path`, whose weights are put into the network."""
    content = read_saved_run(path).content
    if content["step"] == state.step:
        return state
    trained.model.load_state_dict(content["model"])
    if trained.averaged is not None and content["ema"] is not None:
        trained.averaged.load_state_dict(content["ema"])
    return replace(state, step=content["step"], results=metrics_in(content), evaluated_at=content["step"])
