import pytest
import torch
from torch import Tensor, nn

from t2t_vit.bench.profiling import Laps, synchronisations
from t2t_vit.bench.rates import Rates
from t2t_vit.bench.step import PARTS, Graphs, Update, in_a_row, measure_parts, measure_step, watched
from t2t_vit.training.ema import Ema
from t2t_vit.training.mixed_precision import LossScaler
from t2t_vit.training.step import TrainStep

CPU = torch.device("cpu")
RATES = Rates("float32", None, 1e9, 64)


def batch() -> tuple[Tensor, Tensor]:
    return torch.ones(4, 3), torch.zeros(4, dtype=torch.int64)


def step_of(*, ema: bool = True, accumulation: int = 1) -> TrainStep:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    average = Ema(model, 0.9) if ema else None
    return TrainStep(model, optimizer, scaler=LossScaler(CPU), ema=average, accumulation=accumulation)


def test_every_part_is_there_and_shares_are_those_of_the_sum():
    rows = measure_parts(Update(step_of(), batch), CPU, repeats=2)
    assert tuple(row["name"] for row in rows) == PARTS
    assert sum(row["share"] for row in rows) == pytest.approx(1.0)
    assert all(row["seconds"]["median"] > 0 for row in rows)


def test_without_an_average_its_part_is_missing():
    rows = measure_parts(Update(step_of(ema=False), batch), CPU, repeats=1)
    assert tuple(row["name"] for row in rows) == PARTS[:-1]


def test_parts_come_in_the_order_of_a_step_and_twice_where_two_batches_make_one():
    update = Update(step_of(accumulation=2), batch)
    names: list[str] = []
    laps = Laps(CPU)
    laps.lap = names.append  # type: ignore[method-assign]
    with watched(update, laps):
        update()
    assert names == 2 * ["batch transform", "forward", "backward"] + ["optimizer"]  # the average's end is the caller's


def test_watching_changes_no_weight_and_ends():
    plain, seen = step_of(), step_of()
    for step in (plain, seen):
        Update(step, batch)()
    update = Update(seen, batch)
    before = (update.batch, seen.autocast, seen.loss, seen.ema)
    with watched(update, Laps(CPU)):
        update()
    Update(plain, batch)()
    assert (update.batch, seen.autocast, seen.loss, seen.ema) == before
    for one, other in zip(plain.model.parameters(), seen.model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert plain.ema is not None and seen.ema is not None
    assert torch.equal(plain.ema.module.weight, seen.ema.module.weight)


def test_a_step_has_all_figures():
    found = measure_step(step_of(accumulation=2), batch, CPU, RATES, flops_per_image=36, repeats=2)
    assert (found["images"], found["flops"], found["steps"]) == (8, 8 * 36, 2)
    assert found["images_per_second"] == pytest.approx(8 / found["seconds"]["median"])
    assert found["mfu_measured"] == pytest.approx(found["images_per_second"] * 36 / 1e9)
    assert found["synchronisations"] is None
    assert found["graphs"] == {"graphs": 0, "breaks": 0, "recompiled": 0}


def test_runs_in_a_row_are_counted_without_the_first():
    done: list[int] = []
    assert len(in_a_row(lambda: done.append(0), CPU, repeats=3, warm_up=2)) == 3
    assert len(done) == 5


def test_graphs_breaks_and_graphs_that_come_later_are_counted():
    torch._dynamo.reset()

    def broken(numbers: Tensor) -> Tensor:
        numbers = numbers + 1
        torch._dynamo.graph_break()
        return numbers * 2

    graphs = Graphs()
    compiled = torch.compile(broken, backend="eager", dynamic=False)
    compiled(torch.ones(3))
    graphs.began()
    compiled(torch.ones(3))
    assert graphs.to_dict() == {"graphs": 2, "breaks": 1, "recompiled": 0}
    compiled(torch.ones(4))
    assert graphs.to_dict()["recompiled"] == 2
    torch._dynamo.reset()


@pytest.mark.gpu
def test_synchronisations_are_counted():
    device = torch.device("cuda")
    numbers = torch.ones(3, device=device)
    assert synchronisations(lambda: numbers + 1, device) == 0
    assert synchronisations(lambda: [numbers.sum().item() for _ in range(3)], device) == 3


def test_a_processor_is_never_waited_for():
    assert synchronisations(lambda: None, CPU) is None
