"""`bench model`: the network by stage and as a whole, forward and backward."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from t2t_vit.bench.clock import Laps, Spread, rounds
from t2t_vit.bench.memory import peak
from t2t_vit.bench.rates import Rates
from t2t_vit.bench.stages import Flops, Stage, flops_of, stages_of, tensors_in
from t2t_vit.model import T2TViT
from t2t_vit.precision import Precision

Table = list[dict[str, Any]]


def measure_network(
    model: T2TViT,
    forms: Mapping[str, nn.Module],
    others: Mapping[str, Callable[[], object]],
    images: Tensor,
    precision: Precision,
    rates: Rates,
    repeats: int,
) -> dict[str, Any]:
    """Seconds, FLOP/s and memory of the stages of `model`, and of each of its `forms` (eager, compiled) as a whole.

    Forward is inference: no gradient, nothing dropped. Backward is the backward pass alone, of the network in training.

    Args:
        others: further ways to make a forward pass of as many images, by name.
        images: (B, C, H, W) on the device, as the network takes them.
    """
    flops = flops_of(model)
    # First, as memory is told best before much was freed.
    whole = measure_whole(forms, others, images, precision, rates, flops, repeats)
    model.train()
    with precision.autocast():
        stages = stages_of(model, images)
    return {"stages": measure_stages(model, stages, precision, rates, flops, repeats), "whole": whole}


def measure_stages(
    model: T2TViT,
    stages: Sequence[Stage],
    precision: Precision,
    rates: Rates,
    flops: Mapping[str, Flops],
    repeats: int,
) -> Table:
    """A row a stage; shares are those of their sum."""
    laps = Laps(precision.device)

    def forward() -> dict[str, float]:
        model.eval()
        for stage in stages:
            with torch.inference_mode(), precision.autocast():
                laps.begin()
                stage.run(*stage.inputs)
                laps.lap(stage.name)
        return laps.seconds()

    def backward() -> dict[str, float]:
        model.train()
        for stage in stages:
            with precision.autocast():
                run = stage.backward(stage.run(*stage.inputs))
            if run is not None:
                laps.begin()
                run()
                laps.lap(stage.name)
        return laps.seconds()

    batch = len(next(tensors_in(stages[0].inputs)))
    there = rounds(forward, repeats)
    back = rounds(backward, repeats)
    return [
        {
            "name": stage.name,
            "forward": _row(there, stage.name, batch * flops[stage.name].forward, rates),
            "backward": _row(back, stage.name, batch * flops[stage.name].backward, rates),
        }
        for stage in stages
    ]


def measure_whole(
    forms: Mapping[str, nn.Module],
    others: Mapping[str, Callable[[], object]],
    images: Tensor,
    precision: Precision,
    rates: Rates,
    flops: Mapping[str, Flops],
    repeats: int,
) -> Table:
    """A row each for the forward pass, and for forward and backward pass, of every form, and one for the others."""
    forward = sum(each.forward for each in flops.values())
    both = forward + sum(each.backward for each in flops.values())
    runs: dict[str, tuple[Callable[[], object], int]] = {name: (run, forward) for name, run in others.items()}
    for name, form in forms.items():
        runs[f"forward, {name}"] = (_inference(form, images, precision), forward)
        runs[f"forward and backward, {name}"] = (_training(form, images, precision), both)
    found = []
    for name, (run, work) in runs.items():
        run()  # compiles, and makes what stays
        memory = peak(run, precision.device)
        found.append({"name": name, "memory": memory, **_timed(run, images, work, rates, precision, repeats)})
    return found


def _timed(
    run: Callable[[], object], images: Tensor, flops: int, rates: Rates, precision: Precision, repeats: int
) -> dict[str, Any]:
    laps = Laps(precision.device)

    def once() -> dict[str, float]:
        laps.begin()
        run()
        laps.lap("all")
        return laps.seconds()

    seconds = rounds(once, repeats)["all"]
    return {
        **rates.figure(seconds, len(images) * flops),
        "images_per_second": len(images) / Spread.of(seconds).median,
    }


def _inference(form: nn.Module, images: Tensor, precision: Precision) -> Callable[[], object]:
    @torch.inference_mode()
    def run() -> None:
        form.eval()
        with precision.autocast():
            form(images)

    return run


def _training(form: nn.Module, images: Tensor, precision: Precision) -> Callable[[], object]:
    targets = torch.zeros(len(images), dtype=torch.int64, device=images.device)

    def run() -> None:
        form.train()
        with precision.autocast():
            logits = form(images)
        torch.autograd.backward(cross_entropy(logits.float(), targets))
        form.zero_grad(set_to_none=True)

    return run


def _row(seconds: Mapping[str, list[float]], name: str, flops: int, rates: Rates) -> dict[str, Any] | None:
    """None where there is nothing to do."""
    if name not in seconds:
        return None
    total = sum(Spread.of(values).median for values in seconds.values())
    return {**rates.figure(seconds[name], flops), "share": Spread.of(seconds[name]).median / total}
