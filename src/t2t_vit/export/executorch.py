"""A network as an ExecuTorch program for XNNPACK, for phones and small machines."""

import contextlib
import io
import json
from pathlib import Path

from t2t_vit.export.job import Job
from t2t_vit.export.torch_program import traced
from t2t_vit.inference.exported import quiet
from t2t_vit.inference.runtime_predictors import EXECUTORCH_METHOD


def write_executorch(job: Job, path: Path) -> None:
    """A `.pte` file of a fixed batch, whose method `t2t_vit` answers with the metadata."""
    with quiet(), contextlib.redirect_stdout(io.StringIO()):
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        lowered = to_edge_transform_and_lower(
            traced(job, centred_norms=True),  # ExecuTorch's own loses flat windows: 6e-4 of the largest logit
            partitioner=[XnnpackPartitioner()],
            constant_methods={EXECUTORCH_METHOD: json.dumps(job.metadata.to_strings())},
        )
        path.write_bytes(lowered.to_executorch().buffer)
