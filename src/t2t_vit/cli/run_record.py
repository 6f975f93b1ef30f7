"""What a run is, written beside its history at the beginning: the report needs it, also that of a killed run."""

import json
from datetime import datetime
from typing import Any

import torch
from torch import nn

from t2t_vit.bench.circumstances import cores, processor, versions
from t2t_vit.cli.job import Job
from t2t_vit.data.images import ImageSet
from t2t_vit.files import atomic_write
from t2t_vit.report.run_files import EVALUATION, RECORD, REPORT
from t2t_vit.settings.schema import KEYS, SECTIONS, Config
from t2t_vit.training.state import State


def record_run(job: Job, model: nn.Module, state: State, train_images: ImageSet, val_images: ImageSet) -> None:
    """Write run.json into the run's logs; what an earlier run in the same folder found at its end goes.

    Raises:
        UserError: the folder cannot be written.
    """
    config, logs = job.config, job.folders.logs
    content = {
        "name": config.run_name,
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "arch": config.arch,
        "image_size": list(getattr(model, "image_size", ())),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "trainable": sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
        "dataset": config.dataset,
        "training_images": len(train_images),
        "validation_images": len(val_images),
        "classes": list(train_images.classes),
        "epochs": state.epochs,
        "last_step": state.last_step,
        "updates_per_epoch": state.updates_per_epoch,
        "hardware": hardware(job),
        "software": versions(),
        "configuration": configuration(config),
    }
    with atomic_write(logs / RECORD, "w") as file:
        json.dump(content, file, indent=1)
        file.write("\n")
    for name in (EVALUATION, REPORT):
        (logs / name).unlink(missing_ok=True)


def hardware(job: Job) -> dict[str, Any]:
    """The devices, and the machine around them."""
    on_cuda = job.device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(job.device) if on_cuda else processor(),
        "device_type": job.device.type,
        "processes": job.processes.count,
        "processor": processor(),
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "precision": job.precision.name,
    }


def configuration(config: Config) -> list[dict[str, Any]]:
    """The keys by section, with their values and defaults."""
    values = config.to_dict()
    return [
        {
            "section": section,
            "keys": [{"key": key, "value": values[key], "default": KEYS[key].default} for key in keys],
        }
        for section, keys in SECTIONS.items()
    ]
