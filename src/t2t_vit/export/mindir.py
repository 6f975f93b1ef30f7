"""A network as a MINDIR file: its traced graph, operator by operator, in MindSpore's primitives."""

import operator
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from t2t_vit.export.graph_form import graph_form
from t2t_vit.export.job import ExportJob
from t2t_vit.export.mindir_call import DATA_TYPES, Call, UnmappedError, Value
from t2t_vit.export.mindir_operators import OPERATORS
from t2t_vit.formats.mindir import DYNAMIC, GraphWriter
from t2t_vit.inference.runner import INPUT
from t2t_vit.version import __version__
from t2t_vit.weights.names import to_mindspore

# Operators that check and give nothing.
_CHECKS = frozenset({"aten._assert_tensor_metadata.default", "aten._assert_scalar.default"})
# Where `FileInterface` keeps the network; what else it holds is no weight of the network's.
_NETWORK = "model."


def write_mindir(job: ExportJob, path: Path) -> None:
    """One self-contained file: `images` (batch, C, H, W) -> float32 `logits` (batch, num_classes).

    Weights are parameters of the names that MindSpore gives them, `blocks.0.norm1.gamma`; the metadata are in the
    file's `user_info`. In fp16 the performer's attention stays in float32.

    Raises:
        UnmappedError: the network holds an operator that has no counterpart in MINDIR here.
    """
    graph = mindir_graph(graph_form(job, by_slices=False), job)
    path.write_bytes(graph.to_bytes(job.metadata.to_strings(), "t2t_vit", __version__))


def mindir_graph(module: nn.Module, job: ExportJob) -> GraphWriter:
    """The graph of `module`, traced with the job's example and dynamic sides.

    Raises:
        UnmappedError: an operator, or one of its arguments, has no counterpart.
    """
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch about its own internals
        traced = torch.export.export(module, (job.example(),), dynamic_shapes=job.dynamic_shapes())
        program = traced.run_decompositions({})  # for inference, but no operator taken apart
    graph, values = GraphWriter(), dict[fx.Node, Value]()
    weights = _weights(program)
    images = next(node for node in program.graph.nodes if node.name in program.graph_signature.user_inputs)
    for node in program.graph.nodes:
        if node is images:
            values[node] = graph.input(INPUT, _sides(node), _type(node))
        elif node.op == "placeholder":
            values[node] = _weight(graph, *weights[node.name])
        elif node.op == "call_function" and _has_tensor_result(node):
            values[node] = _called(node, graph, values, images)
    (answer,) = program.graph_signature.user_outputs
    last = next(node for node in values if node.name == answer)
    graph.output(str(values[last]), _sides(last), _type(last))
    return graph


def _weights(program: ExportedProgram) -> dict[str, tuple[str, Tensor, Tensor]]:
    """Of each placeholder that holds a weight: MindSpore's name, the tensor in MindSpore's shape, and in PyTorch's.

    A constant, which is no weight, has no name.
    """
    state = {**program.state_dict, **program.constants}
    ours = {name: tensor for name, tensor in state.items() if name.startswith(_NETWORK)}
    renamed = dict(zip(ours, to_mindspore(ours).items(), strict=True))
    found = {}
    for spec in program.graph_signature.input_specs:
        if spec.kind is not InputKind.USER_INPUT:
            tensor = state[str(spec.target)]
            name, written = renamed.get(str(spec.target), ("", tensor))
            found[spec.arg.name] = name.removeprefix(_NETWORK), written, tensor
    return found


def _weight(graph: GraphWriter, name: str, written: Tensor, used: Tensor) -> str:
    values = written.detach().contiguous().numpy()
    if not name:
        return graph.tensor(values)
    value = graph.parameter(name, values)
    return value if written.shape == used.shape else graph.node("Reshape", [value, graph.constant(tuple(used.shape))])


def _called(node: fx.Node, graph: GraphWriter, values: Mapping[fx.Node, Value], images: fx.Node) -> Value:
    if node.target is operator.getitem:
        source, index = node.args
        assert isinstance(source, fx.Node) and isinstance(index, int)
        return values[source][index]
    known = OPERATORS.get(str(node.target))
    if known is None:
        raise UnmappedError(f"{node.target} has no counterpart in MINDIR")
    call = Call(node, graph, values, images)
    for name in known.implied:
        call.take(name)
    value = known.write(call)
    call.finish()
    return value


def _has_tensor_result(node: fx.Node) -> bool:
    """Not a number worked out from the batch, which shapes say again, and not a check."""
    return not isinstance(node.meta.get("val"), torch.SymInt) and str(node.target) not in _CHECKS


def _sides(node: fx.Node) -> tuple[int, ...]:
    return tuple(side if isinstance(side, int) else DYNAMIC for side in node.meta["val"].shape)


def _type(node: fx.Node) -> str:
    return DATA_TYPES[node.meta["val"].dtype]
