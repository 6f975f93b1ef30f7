import pytest
import torch
from torch import nn

from t2t_vit import precision
from t2t_vit.errors import UserError
from t2t_vit.precision import Precision, choose_device, choose_precision, choose_products

CPU = torch.device("cpu")


@pytest.fixture
def machine(monkeypatch):
    """Pretend a machine: its accelerator and how many of them."""

    def pretend(kind: str | None, count: int = 0) -> None:
        def current(check_available: bool = False) -> torch.device | None:
            assert check_available, "a CUDA build names cuda on any machine otherwise"
            return None if kind is None else torch.device(kind)

        monkeypatch.setattr(torch.accelerator, "current_accelerator", current)
        monkeypatch.setattr(torch.accelerator, "device_count", lambda: count)

    return pretend


def test_auto_takes_what_is_there(machine):
    machine(None)
    assert choose_device("auto", 3) == CPU
    machine("cuda", 2)
    assert choose_device("auto", 1) == torch.device("cuda", 1)
    assert choose_device("GPU") == torch.device("cuda", 0)
    assert choose_device("CPU", 7) == CPU


def test_devices_that_are_not_there_are_one_sentence(machine):
    machine(None)
    with pytest.raises(UserError, match="finds no GPU"):
        choose_device("GPU")
    with pytest.raises(UserError, match=r"torch_npu.*MINDIR"):
        choose_device("Ascend")
    machine("cuda", 1)
    with pytest.raises(UserError, match="device_id: 1, but this machine has 1"):
        choose_device("auto", 1)
    with pytest.raises(UserError, match="TPU"):
        choose_device("TPU")


def test_accelerators_of_apple_and_intel(machine):
    machine("mps", 1)
    assert choose_device("MPS") == choose_device("auto") == choose_device("GPU") == torch.device("mps", 0)
    with pytest.raises(UserError, match=r"XPU, but PyTorch finds no GPU of Intel \(XPU\) here; use auto or CPU"):
        choose_device("XPU")
    machine("xpu", 2)
    assert choose_device("XPU", 1) == torch.device("xpu", 1)
    machine(None)
    with pytest.raises(UserError, match=r"MPS, but PyTorch finds no GPU of Apple \(MPS\) here; use auto or CPU"):
        choose_device("MPS")


def test_commands_that_never_fail_for_the_device_fall_back_and_say_so(machine):
    machine(None)
    notes: list[str] = []
    assert choose_device("GPU", required=False, note=notes.append) == CPU
    assert choose_device("Ascend", required=False, note=notes.append) == CPU
    assert all("running on the CPU" in note for note in notes)
    assert len(notes) == 2


@pytest.mark.parametrize(
    ("level", "dtype", "scales"),
    [
        ("O0", None, False),
        ("O1", torch.float16, True),
        ("O2", torch.float16, True),
        ("bf16", torch.bfloat16, False),
    ],
)
def test_levels(level, dtype, scales):
    chosen = choose_precision(level, CPU, training=True)
    assert (chosen.name, chosen.autocast_dtype, chosen.scales_loss) == (level, dtype, scales)
    with chosen.autocast():
        assert nn.Linear(2, 2)(torch.ones(1, 2)).dtype == (dtype or torch.float32)


def test_levels_that_do_not_train_here():
    with pytest.raises(UserError, match="inference only"):
        choose_precision("O3", CPU, training=True)
    with pytest.raises(UserError, match="not one of auto"):
        choose_precision("O4", CPU, training=False)


def test_half_weights_take_float_images():
    chosen = choose_precision("O3", CPU, training=False)
    model = chosen.prepare(nn.Linear(2, 2))
    assert model(torch.ones(1, 2)).dtype == torch.float16


def types(model):
    return {name: tensor.dtype for name, tensor in model.state_dict().items()}


def test_o2_halves_weights_but_not_norms():
    chosen = choose_precision("O2", CPU, training=False)
    model = chosen.prepare(nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2), nn.BatchNorm1d(2), nn.Linear(2, 2)).eval())
    halves = {name for name, dtype in types(model).items() if dtype == torch.float16}
    assert halves == {"0.weight", "0.bias", "3.weight", "3.bias"}
    with chosen.autocast():
        assert model(torch.ones(1, 2)).dtype == torch.float16


def test_o2_trains_a_copy_of_the_masters():
    chosen = choose_precision("O2", CPU, training=True)
    masters = chosen.prepare(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))
    copy = chosen.working_copy(masters)
    assert set(types(masters).values()) == {torch.float32, torch.int64}
    assert types(copy)["0.weight"] == torch.float16
    assert types(copy)["1.weight"] == torch.float32
    assert copy[1].weight is not masters[1].weight
    assert copy[1].running_mean is masters[1].running_mean


def test_fp16_on_a_cpu_says_that_it_is_slow():
    notes: list[str] = []
    for level in ("O1", "O2"):
        choose_precision(level, CPU, training=True, note=notes.append)
    assert all("ten times slower" in note for note in notes)
    assert [note[11:13] for note in notes] == ["O1", "O2"]


@pytest.mark.parametrize(("has", "level"), [(True, "bf16"), (False, "O0")])
def test_auto_on_a_cpu(monkeypatch, has, level):
    monkeypatch.setattr(precision, "cpu_multiplies_bf16", lambda: has)
    assert choose_precision("auto", CPU, training=True).name == level


@pytest.mark.parametrize(("has", "level"), [(True, "bf16"), (False, "O1")])
def test_auto_on_cuda(monkeypatch, has, level):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: has)
    assert choose_precision("auto", torch.device("cuda"), training=True).name == level


def test_inference_on_cuda_has_its_weights_in_bf16_where_auto_may_choose(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    cuda = torch.device("cuda")
    chosen = choose_precision("auto", cuda, training=False)
    assert (chosen.name, chosen.autocast_dtype, chosen.weights_dtype) == ("bf16 weights", None, torch.bfloat16)
    assert choose_precision("bf16", cuda, training=False).autocast_dtype == torch.bfloat16
    assert choose_precision("auto", cuda, training=True).weights_dtype == torch.float32


@pytest.fixture
def products():
    """What is set for float32 products, put back at the end."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    yield lambda: (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32)
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]


def test_float32_is_full_at_o0_alone_and_it_is_said(products):
    notes: list[str] = []
    before = products()
    choose_products(Precision("O0", CPU), notes.append)
    assert (products(), notes) == (before, [])
    cuda = torch.device("cuda")
    choose_products(Precision("bf16", cuda), notes.append)
    assert products() == ("high", True)
    choose_products(Precision("O0", cuda), notes.append)
    assert products() == ("highest", False)
    assert notes == ["float32 products: TF32", "float32 products: full precision, no TF32 (amp_level O0)"]


@pytest.mark.parametrize(
    ("found", "answer"), [({"amx_bf16": True}, True), ({"avx512_bf16": True}, True), ({"avx2": True}, False)]
)
def test_the_processor_is_asked(monkeypatch, found, answer):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found, raising=False)
    assert precision.cpu_multiplies_bf16() is answer
