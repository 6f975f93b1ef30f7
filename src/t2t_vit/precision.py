"""On which device a job runs, and in which numbers.

`choose_device` answers `device_target`, `choose_precision` answers `amp_level`; both are asked once, by the
command line, and say through `note` what the user would otherwise have to guess.
"""

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from t2t_vit.errors import UserError

Note = Callable[[str], None]

DEVICE_TARGETS = ("auto", "GPU", "CPU", "MPS", "XPU", "Ascend")
_MAKERS = {"GPU": "GPU", "MPS": "GPU of Apple (MPS)", "XPU": "GPU of Intel (XPU)"}
NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)
AMP_LEVELS = ("auto", "O0", "O1", "O2", "O3", "bf16")


def choose_device(
    device_target: str, device_id: int = 0, *, required: bool = True, note: Note | None = None
) -> torch.device:
    """The device that `device_target` means on this machine.

    auto: an accelerator that is really there, else the CPU. GPU: that accelerator, or an error; AMD's are `cuda` to
    PyTorch, too. MPS, XPU: that of Apple or Intel, or an error.
    Ascend: `torch_npu` where it is installed (nobody has tested it), or an error.
    required=False is for commands that never fail for this key: they fall back to the CPU and say so.

    Raises:
        UserError: no such device here, an unknown target, or a `device_id` that this machine does not have.
    """
    if device_target not in DEVICE_TARGETS:
        raise UserError(f"device_target: {device_target!r} is not one of {', '.join(DEVICE_TARGETS)}")
    if device_target == "CPU":
        return torch.device("cpu")
    try:
        return _ascend(device_id, note) if device_target == "Ascend" else _accelerator(device_target, device_id)
    except UserError as error:
        if required:
            raise
        if note is not None:
            note(f"{str(error).partition(';')[0]}; running on the CPU")
        return torch.device("cpu")


def _accelerator(device_target: str, device_id: int) -> torch.device:
    # A CUDA build names cuda on every machine unless it is asked to look.
    found = torch.accelerator.current_accelerator(check_available=True)
    if found is None and device_target == "auto":
        return torch.device("cpu")
    if found is None or (device_target in ("MPS", "XPU") and found.type != device_target.lower()):
        raise UserError(
            f"device_target: {device_target}, but PyTorch finds no {_MAKERS[device_target]} here; use auto or CPU "
            "(--device cpu)"
        )
    return _numbered(found.type, device_id, torch.accelerator.device_count())


def _ascend(device_id: int, note: Note | None) -> torch.device:
    if find_spec("torch_npu") is None:
        raise UserError(
            "device_target: Ascend needs the package torch_npu, which is not installed; "
            "install it, or export the model as MINDIR and run that on Ascend with MindSpore"
        )
    import torch_npu  # type: ignore[import-not-found]

    if note is not None:
        note("device_target: Ascend through torch_npu, which has never been tested with this program")
    return _numbered("npu", device_id, torch_npu.npu.device_count())


def _numbered(kind: str, device_id: int, count: int) -> torch.device:
    if not 0 <= device_id < count:
        raise UserError(f"device_id: {device_id}, but this machine has {count} {kind} device(s), numbered from 0")
    return torch.device(kind, device_id)


@dataclass(frozen=True)
class Precision:
    """The numbers a job computes in.

    name            O0, O1, O2, bf16, "bf16 weights" or O3: what `amp_level` came to, for the output
    autocast_dtype  what matrix products run in; None: what the weights are in
    weights_dtype   what the weights are held in
    keeps_norms     except for the weights of norms and for buffers, which stay in float32
    scales_loss     fp16 gradients underflow, so the loss is scaled up before the backward pass
    has_masters     the weights above are a working copy's; the network itself, which is saved, stays in float32
    """

    name: str
    device: torch.device
    autocast_dtype: torch.dtype | None = None
    weights_dtype: torch.dtype = torch.float32
    keeps_norms: bool = False
    scales_loss: bool = False
    has_masters: bool = False

    @property
    def product_dtype(self) -> torch.dtype:
        """What matrix products are made in."""
        return self.autocast_dtype or self.weights_dtype

    def autocast(self) -> AbstractContextManager[object]:
        """The context a forward pass runs in."""
        if self.autocast_dtype is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.autocast_dtype)

    def prepare(self, model: nn.Module) -> nn.Module:
        """`model` on the device with its weights in `weights_dtype`, or as masters; it takes float32 images still."""
        model.to(self.device)
        return model if self.has_masters else self._cast(model)

    def working_copy(self, masters: nn.Module) -> nn.Module:
        """What trains in place of `masters`: their copy with its weights in `weights_dtype`, and the same buffers."""
        return self._cast(deepcopy(masters, {id(buffer): buffer for buffer in masters.buffers()}))

    def _cast(self, model: nn.Module) -> nn.Module:
        if self.keeps_norms:
            for module in model.modules():
                if not isinstance(module, NORMS):
                    for parameter in module.parameters(recurse=False):
                        parameter.data = parameter.data.to(self.weights_dtype)
        elif self.weights_dtype is not torch.float32:
            model.to(self.weights_dtype)
            model.register_forward_pre_hook(self._cast_images)
        return model

    def _cast_images(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(images.to(self.weights_dtype) for images in inputs)


def choose_precision(amp_level: str, device: torch.device, *, training: bool, note: Note | None = None) -> Precision:
    """The precision that `amp_level` means on `device`.

    O0: float32 everywhere. O1: autocast to float16, with loss scaling in training. O2: the same with weights in
    float16, except for norms; in training the optimizer keeps masters in float32. bf16: autocast to bfloat16.
    O3: weights and arithmetic in float16, for inference only. auto: the fastest safe one here: bf16 where the
    hardware multiplies it (for inference on CUDA with the weights in bfloat16, too, which saves casting them), else O1
    on an accelerator, else O0.

    Raises:
        UserError: an unknown level, or O3 in training.
    """
    if amp_level not in AMP_LEVELS:
        raise UserError(f"amp_level: {amp_level!r} is not one of {', '.join(AMP_LEVELS)}")
    if amp_level == "O3" and training:
        raise UserError("amp_level: O3 is for inference only (it keeps no float32 masters); use O1, O2, bf16 or auto")
    level = _fastest_safe(device) if amp_level == "auto" else amp_level
    if level in {"O1", "O2", "O3"} and device.type == "cpu" and note is not None:
        note(
            f"amp_level: {level} computes in float16, which on a CPU is up to ten times slower than float32; "
            "bf16 or O0 are faster"
        )
    if level == "O1":
        return Precision("O1", device, autocast_dtype=torch.float16, scales_loss=training)
    if level == "O2":
        half = torch.float16
        return Precision("O2", device, half, half, keeps_norms=True, scales_loss=training, has_masters=training)
    if level == "bf16" and amp_level == "auto" and device.type == "cuda" and not training:
        return Precision("bf16 weights", device, weights_dtype=torch.bfloat16)
    if level == "bf16":
        return Precision("bf16", device, autocast_dtype=torch.bfloat16)
    if level == "O3":
        return Precision("O3", device, weights_dtype=torch.float16)
    return Precision("O0", device)


def choose_products(precision: Precision, note: Note | None = None) -> None:
    """Set, for this process, what a CUDA device makes of products and convolutions of float32, and say it.

    O0 is float32 in full. At every other level the few products that stay in float32 (the performers', the head's loss)
    are made in TF32, whose ten bits are still more than float16 or bfloat16 around them have. PyTorch's own default is
    neither: products in full, convolutions in TF32.
    """
    if precision.device.type != "cuda":
        return
    full = precision.name == "O0"
    if full:
        # torch's compiler, which takes it for an oversight.
        warnings.filterwarnings("ignore", "TensorFloat32 tensor cores", UserWarning)
    torch.set_float32_matmul_precision("highest" if full else "high")
    torch.backends.cudnn.allow_tf32 = not full
    if note is not None:
        note("float32 products: full precision, no TF32 (amp_level O0)" if full else "float32 products: TF32")


def _fastest_safe(device: torch.device) -> str:
    if device.type == "cuda":
        # Older cards emulate bfloat16, slower than float32.
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "O1"
    if device.type == "cpu":
        return "bf16" if cpu_multiplies_bf16() else "O0"
    return "O1"


def cpu_multiplies_bf16() -> bool:
    """Whether this processor has instructions for bfloat16 products (AVX512-BF16 or AMX-BF16)."""
    look = getattr(torch.cpu, "get_capabilities", None)
    capabilities = look() if look is not None else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
