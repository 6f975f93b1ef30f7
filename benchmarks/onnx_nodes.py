"""What the form of the exported graph gains: nodes, and images a second in ONNX Runtime, against the plain export.

    python benchmarks/onnx_nodes.py [ARCH ...]

Both files run in turns on one batch; a figure is the median of the turns, the gain the median of their ratios.
"""

import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch

from t2t_vit import create_model
from t2t_vit.data.preprocessing import Preprocessing
from t2t_vit.export.job import ExportJob
from t2t_vit.export.onnx import onnx_model
from t2t_vit.inference.exported import Metadata
from t2t_vit.inference.runner import INPUT

ARCHS = ("t2t_vit_14", "t2t_vit_t_14", "t2t_vit_7")
BATCH, SIZE, TURNS = 8, 224, 11
ROW = "{:<20}{:<8}{:>7}{:>9}{:>12}{:>8}"


def main() -> None:
    print(ROW.format("arch", "form", "nodes", "gathers", "images/s", "gain"))
    for arch in sys.argv[1:] or ARCHS:
        torch.manual_seed(0)
        model = create_model(arch, image_size=SIZE).eval()
        preprocessing = Preprocessing((SIZE, SIZE))
        job = ExportJob(model, Metadata(arch, preprocessing, None, model.num_classes), torch.empty(0))
        forms = {name: onnx_model(job, by_slices=by_slices) for name, by_slices in (("plain", False), ("ours", True))}
        speeds = measured({name: session(graph) for name, graph in forms.items()})
        for name, graph in forms.items():
            kinds = Counter(node.op_type for node in graph.graph.node)
            gain = statistics.median(a / b for a, b in zip(speeds[name], speeds["plain"], strict=True))
            speed = f"{statistics.median(speeds[name]):.1f}"
            print(ROW.format(arch, name, kinds.total(), kinds["Gather"] + kinds["GatherND"], speed, f"{gain:.2f} x"))


def session(graph: Any) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        onnx.save(graph, Path(folder) / "x.onnx")
        return onnxruntime.InferenceSession(str(Path(folder) / "x.onnx"), options, providers=["CPUExecutionProvider"])


def measured(sessions: dict[str, onnxruntime.InferenceSession]) -> dict[str, list[float]]:
    images = np.random.default_rng(0).standard_normal((BATCH, 3, SIZE, SIZE), dtype=np.float32)
    speeds: dict[str, list[float]] = {name: [] for name in sessions}
    for turn in range(TURNS + 1):
        for name, one in sessions.items():
            start = time.perf_counter()
            one.run(None, {INPUT: images})
            if turn:  # the first warms up
                speeds[name].append(BATCH / (time.perf_counter() - start))
    return speeds


if __name__ == "__main__":
    main()
