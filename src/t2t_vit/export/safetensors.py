"""A network's weights as a safetensors file that says what they are."""

from pathlib import Path

from t2t_vit.export.job import Job
from t2t_vit.weights.safetensors_file import write_safetensors_file


def write_safetensors(job: Job, path: Path) -> None:
    """The state dict under the original's names, in float32 or half, and in the header configuration and classes."""
    state = job.model.state_dict()
    if job.metadata.precision == "fp16":
        state = {name: tensor.half() for name, tensor in state.items()}
    config = {
        **job.metadata.config,
        "disable_approximate_gelu": not job.model.approximate_gelu,
        "global_pool": job.model.global_pool,
        "interpolation": job.metadata.preprocessing.interpolation,
    }
    write_safetensors_file(state, path, {"config": config, "classes": job.metadata.classes})
