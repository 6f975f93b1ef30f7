"""Whether the images of a run stay in memory once they are decoded: `cache`."""

import torch

from t2t_vit.cli.job import Job
from t2t_vit.data.decode import MODES
from t2t_vit.data.images import ImageSet
from t2t_vit.data.kept import Place, keep_decoded
from t2t_vit.data.memory_budget import budget_of
from t2t_vit.training.distributed import Processes


def keep_images(job: Job, train: ImageSet, val: ImageSet) -> tuple[ImageSet, ImageSet]:
    """The training and the validation images as the loaders read them; the training images take what they need first.

    Data sets that are read whole are in memory as they are, and in a single epoch nothing is read twice.
    """
    config, processes = job.config, job.processes
    once = config.epochs + config.cooldown_epochs == 1
    budget = budget_of(config.cache)
    # The processes of a machine share one memory; each of them must come to the same answer here.
    if config.dataset != "ImageNet" or once or config.cache == "off":
        return train, val

    def told(place: Place | None) -> Place | None:
        return _of_the_machine(place, processes, job.device)

    kept = []
    for images, what in ((train, f"{len(train):,} training images"), (val, f"{len(val):,} validation images")):
        reading, budget = keep_decoded(
            images,
            MODES[config.in_chans],
            budget,
            what=what,
            first=processes.local == 0,
            told=told,
            note=job.note,
        )
        kept.append(reading)
    return kept[0], kept[1]


def _of_the_machine(place: Place | None, processes: Processes, device: torch.device) -> Place | None:
    """What the first process of this machine has."""
    places = torch.zeros(processes.count, 2, dtype=torch.int64, device=device)
    if place is not None:
        places[processes.rank] = torch.tensor(place, device=device)
    process, descriptor = processes.sum(places)[processes.rank - processes.local].tolist()
    return (process, descriptor) if process else None
