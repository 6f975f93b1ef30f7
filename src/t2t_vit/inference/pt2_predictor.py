"""Predictions by a program of torch.export, the `.pt2` file, run operator by operator.

`torch.export.load` unpickles, evaluates strings of the file as Python, and looks its functions up anywhere in torch.
Here the file names operators of a short list, tensors and numbers, and nothing else of it is used.
"""

import json
import math
import zlib
from collections.abc import Callable, Mapping
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from t2t_vit.errors import UserError
from t2t_vit.formats.zip_directory import Stored, read_directory
from t2t_vit.inference.exported import ExportedPredictor, Metadata

EXTRA = "t2t_vit.json"
_LONGEST_JSON = 2**26
# What our networks are made of, as torch 2.11 to 2.15 trace them. None of them reads files or runs anything.
_NAMES = """
    _to_copy.default add.Tensor alias.default amax.default cat.default chunk.default clamp.default clone.default
    contiguous.default conv1d.default conv2d.default detach.default detach_.default div.Tensor dropout.default
    exp.default expand.default flatten.using_ints gelu.default im2col.default layer_norm.default linear.default
    matmul.default mean.dim mul.Tensor neg.default permute.default relu.default reshape.default
    scaled_dot_product_attention.default select.int sigmoid.default slice.Tensor softmax.int split.Tensor square.default
    squeeze.dim sub.Tensor sum.dim_IntList sym_size.int t.default to.dtype transpose.int unbind.int unflatten.int
    unsqueeze.default view.default
"""
_OPERATORS = frozenset(_NAMES.split())
# They check, or answer with a type, which the traced program does not need again.
_IDLE = frozenset({"_assert_tensor_metadata.default", "promote_types.default"})
# As torch._export.serde.schema.ScalarType counts them.
_TYPES = {1: torch.uint8, 5: torch.int64, 6: torch.float16, 7: torch.float32, 12: torch.bool, 13: torch.bfloat16}
_DAMAGE = (ValueError, KeyError, TypeError, IndexError, AttributeError, RuntimeError, RecursionError, OSError)


class Pt2Predictor(ExportedPredictor):
    """A `.pt2` file of torch.export, by PyTorch on the CPU; nothing in it is unpickled, compiled or evaluated.

    Raises:
        UserError: the file is damaged or was not exported by this package.
    """

    def __init__(self, path: str | Path) -> None:
        self._program = Pt2Program(path)
        try:
            metadata = Metadata.from_strings(self._program.strings)
        except ValueError as error:
            raise UserError(f"{path}: was not exported by t2t_vit ({error}); its preprocessing is unknown") from error
        super().__init__(path, metadata)

    @torch.inference_mode()
    def run(self, inputs: Tensor) -> Tensor:
        return self._program(inputs)


class Pt2Program:
    """Images -> logits, by the graph in the file.

    Attributes:
        strings: the metadata that `export` put beside the graph.

    Raises:
        UserError: damaged, or a program of other operators than our networks have.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = path
        try:
            with Path(path).open("rb") as file:
                data = memoryview(mmap(file.fileno(), 0, access=ACCESS_READ))
            archive = _Archive(data)
            self.strings: dict[str, str] = archive.json(f"extra/{EXTRA}") if archive.has(f"extra/{EXTRA}") else {}
            module = archive.json("models/model.json")["graph_module"]
            self._values = _weights(archive, module["signature"]["input_specs"])
            self._input, self._output = _input_name(module), module["graph"]["outputs"][0]["as_tensor"]["name"]
            self._steps = _steps(module["graph"]["nodes"], self._output)
        except UserError:
            raise
        except _DAMAGE as error:
            raise UserError(f"{path}: is a damaged program of torch.export, cut short perhaps") from error

    def __call__(self, images: Tensor) -> Tensor:
        """Logits of the images, by the file's own precision."""
        values = {**self._values, self._input: images}
        try:
            for step in self._steps:
                step(values)
            return values[self._output]
        except (KeyError, TypeError, RuntimeError, IndexError) as error:
            raise UserError(f"{self._path}: holds a program that does not run on images") from error


class _Archive:
    """Entries of the zip archive by their names below its root."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._entries: dict[str, Stored] = {
            name.partition("/")[2]: entry for name, entry in read_directory(data).items()
        }

    def has(self, name: str) -> bool:
        return name in self._entries

    def bytes(self, name: str) -> memoryview:
        entry = self._entries[name]
        content = self._data[entry.start : entry.stop]
        if entry.crc and zlib.crc32(content) != entry.crc:
            raise ValueError(f"{name} is damaged")
        return content

    def json(self, name: str) -> Any:
        content = self.bytes(name)
        if len(content) > _LONGEST_JSON:
            raise ValueError(f"{name} is too long")
        return json.loads(bytes(content))


def _weights(archive: _Archive, specs: list[Any]) -> dict[str, Tensor]:
    """Tensors by their names in the graph."""
    stored = {
        name: (f"data/{kind}/", entry)
        for kind in ("weights", "constants")
        for name, entry in archive.json(f"data/{kind}/model_{kind}_config.json")["config"].items()
    }
    found = {}
    for spec in specs:
        ((kind, field),) = spec.items()
        if kind != "user_input":
            folder, entry = stored[field[f"{kind}_name"]]
            found[field["arg"]["name"]] = _tensor(archive.bytes(folder + entry["path_name"]), entry)
    return found


def _tensor(content: memoryview, entry: Mapping[str, Any]) -> Tensor:
    if entry["use_pickle"]:
        raise ValueError("a weight is pickled")
    meta = entry["tensor_meta"]
    dtype = _TYPES[meta["dtype"]]
    sizes, strides = ([int(side["as_int"]) for side in meta[key]] for key in ("sizes", "strides"))
    offset = int(meta["storage_offset"]["as_int"])
    if min([*sizes, *strides, offset], default=0) < 0:
        raise ValueError("a weight of a negative size")
    last = offset + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
    if math.prod(sizes) and last >= len(content) // dtype.itemsize:
        raise ValueError("a weight reaches past its bytes")
    if not math.prod(sizes):
        return torch.empty(sizes, dtype=dtype)
    # A copy: the file may change or vanish while the program runs.
    return torch.frombuffer(bytearray(content), dtype=dtype).as_strided(sizes, strides, offset)


def _input_name(module: Mapping[str, Any]) -> str:
    (given,) = [spec["user_input"] for spec in module["signature"]["input_specs"] if "user_input" in spec]
    return str(given["arg"]["as_tensor"]["name"])


Step = Callable[[dict[str, Any]], None]


def _steps(nodes: list[Any], output: str) -> list[Step]:
    """The nodes that do something, each of which drops what nobody needs after it."""
    working = [node for node in nodes if _operator_name(node) not in _IDLE]
    last = {name: place for place, node in enumerate(working) for name in _names(node["inputs"])}
    drops: dict[int, list[str]] = {}
    for name, place in last.items():
        if name != output:
            drops.setdefault(place, []).append(name)
    return [_step(node, drops.get(place, [])) for place, node in enumerate(working)]


def _step(node: Mapping[str, Any], drops: list[str]) -> Step:
    name = _operator_name(node)
    if name not in _OPERATORS:
        raise UserError(f"the program calls {node['target']}, which no T2T-ViT does; it is not run")
    packet, _, overload = name.partition(".")
    operator = getattr(getattr(torch.ops.aten, packet), overload)
    arguments = {given["name"]: given["arg"] for given in node["inputs"]}
    (answer,) = node["outputs"]

    def run(values: dict[str, Any]) -> None:
        result = operator(**{key: _argument(argument, values) for key, argument in arguments.items()})
        ((kind, field),) = answer.items()
        if kind == "as_tensors":
            values.update({one["name"]: part for one, part in zip(field, result, strict=True)})
        else:
            values[field["as_name"] if kind == "as_sym_int" else field["name"]] = result
        for spent in drops:
            values.pop(spent, None)

    return run


def _operator_name(node: Mapping[str, Any]) -> str:
    return str(node["target"]).removeprefix("torch.ops.aten.")


def _argument(argument: Mapping[str, Any], values: Mapping[str, Any]) -> Any:
    ((kind, field),) = argument.items()
    if kind == "as_tensor":
        return values[field["name"]]
    if kind == "as_tensors":
        return [values[one["name"]] for one in field]
    if kind == "as_sym_int":
        return values[field["as_name"]] if "as_name" in field else int(field["as_int"])
    if kind == "as_sym_ints":
        return [_argument({"as_sym_int": one}, values) for one in field]
    if kind == "as_scalar_type":
        return _TYPES[field]
    if kind in ("as_none", "as_device", "as_layout", "as_memory_format"):
        return None  # the device is the CPU, the others what tensors have anyway
    if kind in ("as_int", "as_ints", "as_float", "as_floats", "as_bool", "as_bools", "as_string"):
        return field
    raise ValueError(f"an argument {kind}")


def _names(inputs: list[Any]) -> list[str]:
    """Names that a node needs."""
    found = []
    for given in inputs:
        ((kind, field),) = given["arg"].items()
        listed = field if kind in ("as_tensors", "as_sym_ints") else [field]
        if kind in ("as_tensor", "as_tensors", "as_sym_int", "as_sym_ints"):
            found += [str(one.get("name", one.get("as_name"))) for one in listed]
    return found
