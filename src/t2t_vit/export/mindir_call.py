"""One operator of a traced network on its way into a MINDIR graph: its arguments, and what to say of them there."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from t2t_vit.formats.mindir import DYNAMIC, GraphWriter

# What a traced value is in the graph: a tensor's name, or those of several tensors.
Value = str | tuple[str, ...]
DATA_TYPES = {torch.float32: "float32", torch.float16: "float16", torch.uint8: "uint8"}
# MindSpore's numbers of the types that Cast goes to, the same in 2.7 to 2.10.
CAST_TYPES = {torch.float32: 43, torch.float16: 42}


class UnmappedError(Exception):
    """A network holds what has no counterpart in MINDIR here; no file is written."""


class Call:
    """A node of the traced graph, its arguments by the names that the operator's schema gives them.

    No argument of an operator is skipped in silence: an argument that nobody took must have its default value.

    Args:
        node: calls an operator of torch.ops.
        graph: what is written.
        values: what the nodes before have become in the graph.
        images: the graph's input; its first side is the batch.
    """

    def __init__(self, node: fx.Node, graph: GraphWriter, values: Mapping[fx.Node, Value], images: fx.Node) -> None:
        self.node, self.graph = node, graph
        self._values, self._images = values, images
        schema = getattr(node.target, "_schema").arguments  # noqa: B009  # of operators alone, which mypy cannot know
        self._defaults = {argument.name: argument.default_value for argument in schema}
        self._left: dict[str, Any] = {**dict(zip(self._defaults, node.args, strict=False)), **node.kwargs}

    @property
    def result(self) -> Tensor:
        """What the operator gives, as the trace saw it: only shape and type mean anything."""
        return self.node.meta["val"]

    def take(self, name: str) -> Any:
        """The argument called `name`, or its default value."""
        return self._left.pop(name, self._defaults[name])

    def take_tensor(self, name: str) -> tuple[str, Tensor]:
        """The name in the graph of a tensor argument, and the tensor as the trace saw it."""
        node = self.take(name)
        value = self._values.get(node)
        if not isinstance(value, str):
            raise self.unmapped(f"with {name}={node}")
        return value, node.meta["val"]

    def take_tensors(self, name: str) -> list[str]:
        """The names in the graph of a list of tensors."""
        taken = [self._values[node] for node in self.take(name)]
        return [value for value in taken if isinstance(value, str)]

    def take_optional(self, name: str) -> str | None:
        """The name in the graph of a tensor that may be missing."""
        return None if self._left.get(name) is None else self.take_tensor(name)[0]

    def take_operand(self, name: str) -> str:
        """A tensor or a number, as a tensor of the result's type."""
        if isinstance(number := self._left.get(name, self._defaults[name]), int | float):
            self.take(name)
            return self.number(number)
        value, seen = self.take_tensor(name)
        return value if seen.dtype == self.result.dtype else self.cast(value, self.result.dtype)

    def finish(self) -> None:
        """Refuse arguments that were not taken.

        Raises:
            UnmappedError: one of them is not at its default value.
        """
        for name, value in self._left.items():
            if name not in self._defaults or value != self._defaults[name]:
                raise self.unmapped(f"with {name}={value}")

    def unmapped(self, why: str) -> UnmappedError:
        """The error that names this operator, and where in the network it stands."""
        modules = [path for path, _ in (self.node.meta.get("nn_module_stack") or {}).values()]
        where = modules[-1] if modules and modules[-1] else "the network itself"
        return UnmappedError(f"{self.node.target} {why} has no counterpart in MINDIR; it is in {where}")

    def reshaped(self, value: str) -> str:
        """`value` in the result's shape, one side of which may depend on the batch."""
        sides = tuple(side if isinstance(side, int) else DYNAMIC for side in self.result.shape)
        if sides.count(DYNAMIC) > 1:
            raise self.unmapped(f"to the shape {tuple(self.result.shape)}")
        return self.graph.node("Reshape", [value, self.graph.constant(sides)])

    def sides(self) -> str:
        """The result's shape, for primitives that cannot work it out: each side is a number or the batch."""
        batch, sides = self._images.meta["val"].shape[0], []
        traced: tuple[int | torch.SymInt, ...] = tuple(self.result.shape)
        for side in traced:
            if isinstance(side, int):
                sides.append(self.graph.constant(side))
            elif str(side) == str(batch):
                shape = self.graph.node("Shape", [str(self._values[self._images])])
                sides.append(self.graph.node("TupleGetItem", [shape, self.graph.constant(0)]))
            else:
                raise self.unmapped(f"to the shape {tuple(self.result.shape)}")
        return self.graph.node("MakeTuple", sides)

    def number(self, value: float) -> str:
        """A constant of the result's type, without dimensions."""
        return self.graph.tensor(np.asarray(value, DATA_TYPES[self.result.dtype]))

    def cast(self, value: str, dtype: torch.dtype) -> str:
        """`value` in another type.

        Raises:
            UnmappedError: MINDIR is not written with that type here.
        """
        if dtype not in CAST_TYPES:
            raise self.unmapped(f"to {dtype}")
        return self.graph.node("Cast", [value, self.graph.constant(CAST_TYPES[dtype])])
