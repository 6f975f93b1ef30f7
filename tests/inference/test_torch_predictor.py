"""Which engine an accelerator gets, without one."""

import pytest
import torch

from t2t_vit.inference.torch_predictor import REPAYS_COMPILING, Plan, Workload, filled, plan_for

LONG = Workload(REPAYS_COMPILING, 256)


def never() -> str:
    raise AssertionError("looking for a compiler takes seconds")


@pytest.mark.parametrize("device", ["cpu", "mps", "npu"])
def test_only_cuda_has_engines(device: str) -> None:
    assert plan_for(device, LONG, never) == Plan()


@pytest.mark.parametrize("work", [Workload(), Workload(1, 1), Workload(20, 32), Workload(0, 32)])
def test_short_and_unknown_work_is_replayed_and_not_filled(work: Workload) -> None:
    assert plan_for("cuda", work, never) == Plan(graphed=True)


def test_several_batches_have_one_shape() -> None:
    assert plan_for("cuda", Workload(33, 32), never) == Plan(graphed=True, fill=32)
    assert plan_for("cuda", Workload(REPAYS_COMPILING, 0), never) == Plan(graphed=True)


def test_a_long_job_is_compiled_where_it_can_be() -> None:
    assert plan_for("cuda", LONG) == Plan(compiled=True, graphed=True, fill=256)
    without = plan_for("cuda", LONG, lambda: "there is no C compiler")
    assert without == Plan(graphed=True, fill=256, because="not compiled: there is no C compiler")


def test_the_output_names_it() -> None:
    assert str(Plan()) == "eager"
    assert str(plan_for("cuda", LONG)) == "compiled, CUDA graphs"
    assert str(plan_for("cuda", LONG, lambda: "no C compiler")) == "eager, CUDA graphs (not compiled: no C compiler)"


def test_filling_up_keeps_the_images_in_front() -> None:
    images = torch.arange(3 * 2 * 4 * 4).view(3, 2, 4, 4)
    more = filled(images, 5)
    assert more.shape == (5, 2, 4, 4)
    assert torch.equal(more[:3], images)
    assert filled(images, 0) is filled(images, 3) is filled(images, 2) is images
