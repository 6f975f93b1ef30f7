"""What the key `teacher` may name: a network of ours, one of timm's with its weights, or an exported file."""

import difflib
import hashlib
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from t2t_vit.data.preprocessing import Preprocessing
from t2t_vit.errors import UserError, printable
from t2t_vit.fast.kernels import prepared
from t2t_vit.fast.packing import PackedNetwork
from t2t_vit.inference.exported import ExportedPredictor
from t2t_vit.inference.load import PROGRAMS, is_exported, open_exported, rebuild
from t2t_vit.model import T2TViT
from t2t_vit.model.folder_config import FolderConfig
from t2t_vit.model.token_logits import token_logits
from t2t_vit.out_of_memory import is_out_of_memory
from t2t_vit.precision import Precision
from t2t_vit.weights import checkpoint_config, file_kind, read_weights
from t2t_vit.weights.location import find_file, folder_config
from t2t_vit.weights.reading import read_tensors

Note = Callable[[str], None]
TIMM = "timm:"
_TIMM_FORM = re.compile(r"timm:(?P<name>[\w.]+)(@(?P<side>\d{1,4}))?=(?P<file>.+)", re.DOTALL)


@dataclass(frozen=True)
class TeacherFile:
    """A network that can teach.

    Attributes:
        network: images, normalised for it (B, C, H, W) -> logits (B, K), or score maps (B, K, h, w), in eval mode.
        classes: their names in the order of the logits, where they are known.
        count: how many there are.
        digest: tells what it answers from what another one does; positive, of 63 bits.
        made_of: what it is, in a few words.
    """

    network: Callable[[Tensor], Tensor]
    preprocessing: Preprocessing
    classes: tuple[str, ...] | None
    count: int
    digest: int
    made_of: str


def open_teacher_file(path: str, precision: Precision, kernels: str, note: Note, *, dense: bool) -> TeacherFile:
    """The network that `path` names, on the device, without gradients.

    Args:
        path: what `read_weights` takes, an exported file that is no program, or `timm:NAME=FILE` for a network of
            timm's, `timm:NAME@SIDE=FILE` for images of another size than its own. FILE is a state dict of torch or
            safetensors, or a folder with such a file and perhaps a `config.json`.
        dense: whether it is asked for score maps.

    Raises:
        UserError: it cannot be read, or gives no score maps.
    """
    if path.startswith(TIMM):
        return _of_timm(path, precision, dense)
    if is_exported(path):
        return _exported(path, precision.device, dense)
    weights = read_weights(path)
    rebuilt = rebuild(weights, checkpoint_config(weights), note)
    model = rebuilt.model.requires_grad_(False)
    digest = _digest(model, rebuilt.preprocessing, rebuilt.classes)
    network, made_of = prepared(model, kernels, precision)
    return TeacherFile(
        partial(_maps_of_ours, network, model.grid) if dense else network,
        rebuilt.preprocessing,
        rebuilt.classes,
        model.num_classes,
        digest,
        f"{model.name}, {weights.chosen} weights, {_size(rebuilt.preprocessing)}; {made_of}",
    )


def _size(preprocessing: Preprocessing) -> str:
    return f"{preprocessing.image_size[0]} x {preprocessing.image_size[1]} pixels"


def _digest(model: nn.Module, *others: object) -> int:
    found = hashlib.sha256(repr(others).encode())
    for name, tensor in model.state_dict().items():
        found.update(name.encode())
        found.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return _positive(found.digest())


def _positive(digest: bytes) -> int:
    return 1 + int.from_bytes(digest[:8], "big") % (2**63 - 1)


def _maps_of_ours(network: nn.Module, grid: tuple[int, int], images: Tensor) -> Tensor:
    """What one of our networks says of each place: the head's logits of its tokens, (B, K, rows, columns)."""
    if isinstance(network, PackedNetwork):
        logits = network.token_logits(images)
    else:
        assert isinstance(network, T2TViT)
        logits = token_logits(network, network.forward_features(images))  # (B, 1 + N, K)
    return logits[:, 1:].transpose(1, 2).reshape(len(logits), -1, *grid)


def _exported(path: str, device: torch.device, dense: bool) -> TeacherFile:
    kind = file_kind(path)
    if kind in PROGRAMS:
        raise UserError(
            f"teacher {path}: is a program, which may do anything on this machine, so it cannot teach; give the "
            "checkpoint that it was exported from, or an ONNX file"
        )
    if dense:
        raise UserError(
            f"teacher {path}: is an exported file, which answers only for the whole image; for distill dense, give "
            "the checkpoint that it was exported from"
        )
    predictor = open_exported(path)
    found = hashlib.sha256()
    for file in (find_file(path), Path(path).with_suffix(".bin")):  # OpenVINO's weights lie beside its file
        if file.is_file():
            found.update(file.read_bytes())
    return TeacherFile(
        partial(_logits_of_exported, predictor, device),
        predictor.preprocessing,
        predictor.classes,
        predictor.num_classes,
        _positive(found.digest()),
        f"{predictor.arch}, {_size(predictor.preprocessing)}; a file for {kind}, in its own runtime on the CPU",
    )


def _logits_of_exported(predictor: ExportedPredictor, device: torch.device, images: Tensor) -> Tensor:
    return predictor.logits_of_normalised(images.float().cpu()).to(device)


def _of_timm(path: str, precision: Precision, dense: bool) -> TeacherFile:
    import timm
    from timm import data as timm_data

    data_config: Any = timm_data  # untyped
    form = _TIMM_FORM.fullmatch(path)
    if form is None:
        raise UserError(
            f"teacher {path}: a network of timm's is written timm:NAME=FILE, such as timm:resnet18=resnet18.pth, or "
            "timm:NAME@SIDE=FILE for images of another size than its own"
        )
    name, file = form["name"], str(Path(form["file"]).expanduser())
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=1, cutoff=0)[0]
        raise UserError(f"teacher {path}: timm has no network '{name}'; did you mean '{near}'?")
    tensors = read_tensors(file)
    said = folder_config(find_file(file).parent) if Path(file).is_dir() else FolderConfig()
    side = int(form["side"]) if form["side"] else None
    model = _timm_network(name, tensors, file, side or said.image_size)
    data: dict[str, Any] = data_config.resolve_model_data_config(model)
    size = (side, side) if side else said.image_size or data["input_size"][1:]
    try:
        preprocessing = Preprocessing(
            image_size=size,
            mean=said.mean or data["mean"],
            std=said.std or data["std"],
            in_chans=_channels(model, tensors),
            interpolation=said.interpolation or data["interpolation"],
        )
    except ValueError as error:
        raise UserError(f"teacher {path}: {error}") from error
    count = _count(model, tensors)
    classes = said.classes if said.classes and len(said.classes) == count else None
    digest = _digest(model, name, preprocessing, classes)
    network: Callable[[Tensor], Tensor] = precision.prepare(model)
    if dense:
        network = partial(_maps_of_timm, path, network)
    _try(path, network, preprocessing, precision)
    return TeacherFile(
        network,
        preprocessing,
        classes,
        count,
        digest,
        f"timm's {name}, {_size(preprocessing)}",
    )


def _try(path: str, network: Callable[[Tensor], Tensor], preprocessing: Preprocessing, precision: Precision) -> None:
    """Ask the network once, so that what it cannot answer is known before the run begins.

    Raises:
        UserError: it takes no images of this size, or has no map.
    """
    image = torch.zeros(1, preprocessing.in_chans, *preprocessing.image_size, device=precision.device)
    try:
        with torch.no_grad(), precision.autocast():
            network(image)
    except (RuntimeError, AssertionError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        reason = printable(" ".join(str(error).split()))[:200] or type(error).__name__
        raise UserError(
            f"teacher {path}: fails on images of {_size(preprocessing)} ({reason}); name the size that it was trained "
            "on, as timm:NAME@SIDE=FILE"
        ) from error


def _timm_network(name: str, tensors: Mapping[str, Tensor], file: str, size: int | tuple[int, int] | None) -> nn.Module:
    """The network with these tensors, whose shapes tell its classes and channels; in eval mode, without gradients."""
    import timm

    create: Any = timm.create_model
    plain = create(name)
    arguments: dict[str, Any] = {"num_classes": _count(plain, tensors), "in_chans": _channels(plain, tensors)}
    model: nn.Module = create(name, **arguments)
    if size is not None and hasattr(plain, "patch_embed"):
        with suppress(TypeError):  # a network that takes images of any size as it is
            model = create(name, **arguments, img_size=size)
    wanted = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    found = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    if wanted != found:
        wrong = sorted(key for key in wanted.keys() | found.keys() if wanted.get(key) != found.get(key))
        first = f"{wrong[0]} is {found.get(wrong[0], 'missing')} there and {wanted.get(wrong[0], 'missing')} in it"
        raise UserError(f"{file}: are not the weights of timm's {name}: {len(wrong)} tensors differ ({first})")
    model.load_state_dict(dict(tensors))
    return model.eval().requires_grad_(False)


def _count(model: nn.Module, tensors: Mapping[str, Tensor]) -> int:
    """Classes, by the head's weights; those of the network as it is where they are not found."""
    weight = tensors.get(f"{_part(model, 'classifier')}.weight")
    return int(getattr(model, "num_classes", 0)) if weight is None or weight.ndim < 2 else len(weight)


def _channels(model: nn.Module, tensors: Mapping[str, Tensor]) -> int:
    weight = tensors.get(f"{_part(model, 'first_conv')}.weight")
    return 3 if weight is None or weight.ndim < 2 else weight.shape[1]


def _part(model: nn.Module, key: str) -> str:
    """The name of a part by timm's table; of several, such as a distilled network's two heads, the first."""
    table = getattr(model, "pretrained_cfg", None) or {}
    name = table.get(key) or ""
    return str(name[0] if isinstance(name, list | tuple) else name)


def _maps_of_timm(path: str, network: Any, images: Tensor) -> Tensor:
    """The head of one of timm's networks at each place of its last feature map, (B, K, h, w)."""
    features: Any = network.forward_features(images)
    no_map = UserError(
        f"teacher {path}: this network has no feature map, which distill dense needs; choose distill soft or hard"
    )
    if not isinstance(features, Tensor):
        raise no_map
    if features.ndim == 4:
        if getattr(network, "output_fmt", "NCHW") == "NHWC":
            features = features.permute(0, 3, 1, 2)
        count, width, *grid = features.shape  # (B, C, h, w)
        places = features.permute(0, 2, 3, 1).reshape(-1, width, 1, 1)  # (B h w, C, 1, 1)
        if getattr(network, "output_fmt", "NCHW") == "NHWC":
            places = places.permute(0, 2, 3, 1)
    else:
        prefix = int(getattr(network, "num_prefix_tokens", 0))
        grid = list(getattr(getattr(network, "patch_embed", None), "grid_size", ()) or ())
        features = features[:, prefix:] if features.ndim == 3 else features
        if features.ndim != 3 or len(grid) != 2 or features.shape[1] != grid[0] * grid[1]:
            raise no_map
        count, _, width = features.shape  # (B, N, C)
        # A head that looks at the class token, and one that averages all others, then see this one token.
        places = features.reshape(-1, 1, width).expand(-1, 1 + prefix, -1)
    answers: Tensor = network.forward_head(places)  # (B h w, K)
    return answers.reshape(count, *grid, -1).permute(0, 3, 1, 2)
