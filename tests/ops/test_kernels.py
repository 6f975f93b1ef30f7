import sys

import pytest
import torch
from torch import Tensor, nn

from t2t_vit.errors import UserError
from t2t_vit.ops.kernels import NAMES, Implementation, available, choose, off_cpu, off_triton, on_cuda


def doubled(inputs: Tensor) -> Tensor:
    return inputs * 2


ROWS = (
    Implementation("triton", off_triton, doubled, preferred=on_cuda),
    Implementation("cpu", off_cpu, doubled, preferred=lambda _: not torch.is_grad_enabled()),
    Implementation("reference", available, doubled),
)
HERE = torch.zeros(2)


def test_auto_takes_the_first_that_is_available_and_preferred() -> None:
    assert choose("auto", ROWS, HERE).name == "reference"
    with torch.no_grad():
        assert choose("auto", ROWS, HERE).name == "cpu"


def test_auto_never_takes_the_interpreter(triton_device: torch.device) -> None:
    rows = (ROWS[0], ROWS[2])
    assert choose("triton", rows, HERE.to(triton_device)).name == "triton"
    assert choose("auto", rows, HERE).name == "reference"


@pytest.mark.parametrize("name", ["cpu", "reference"])
def test_a_name_is_taken_at_its_word(name: str) -> None:
    assert choose(name, ROWS, HERE).name == name


@pytest.mark.parametrize(
    ("asked", "inputs", "reason"),
    [
        ("triton", HERE, "kernels 'triton' cannot run: Triton's kernels need"),
        ("triton", HERE.double(), "float32, float16 and bfloat16, not float64"),
        ("fast", HERE, f"there are no kernels 'fast'; choose {', '.join(NAMES[:-1])} or {NAMES[-1]}"),
    ],
)
def test_what_cannot_run_says_why(asked: str, inputs: Tensor, reason: str) -> None:
    with pytest.raises(UserError, match=reason) as error:
        choose(asked, ROWS, inputs)
    assert "\n" not in str(error.value)


def test_an_operation_need_not_have_every_name() -> None:
    with pytest.raises(UserError, match="this operation has none"):
        choose("cpu", ROWS[2:], HERE)


def test_without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(UserError, match="triton is not installed"):
        choose("triton", ROWS, HERE)


def test_shapes_alone_are_computed_by_the_reference() -> None:
    assert choose("triton", ROWS, HERE.to("meta")).name == "reference"


# torch.jit says at every use that it is old.
@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_files_hold_plain_operations() -> None:
    class Chosen(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            assert choose("triton", ROWS, inputs).name == "reference"
            return inputs * 2

    torch.export.export(Chosen(), (HERE,))
    torch.jit.trace(Chosen(), HERE, check_trace=False)
