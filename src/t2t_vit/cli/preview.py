"""`train --preview FILE.png`: training images as the network would get them, augmented and mixed, as one image file."""

from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch
from PIL import Image

from t2t_vit.assembly import build
from t2t_vit.data.folder import reduced
from t2t_vit.errors import UserError
from t2t_vit.files import atomic_write
from t2t_vit.notes import silent, tell
from t2t_vit.settings.schema import Config
from t2t_vit.training.distributed import Processes
from t2t_vit.training.trackers import grid

COLUMNS, ROWS = 8, 8
_LEAST = 96  # side in pixels of a small image in the figure


def write_preview(config: Config, path: Path) -> None:
    """Write the first images of the first epoch, a row a batch: what a batch shares, as a kind of mixing, a row shares.

    Raises:
        UserError: no images, or the file cannot be written or does not end in .png.
    """
    if path.suffix.lower() != ".png":
        raise UserError(f"--preview writes a PNG; give a file name that ends in .png, not {path}")
    images = reduced(build.training_images(config, tell)[0], build.largest_transform(config).reduction)
    small = replace(config, batch_size=COLUMNS, num_parallel_workers=0)
    loader = build.train_loader(small, images, len(images.classes), Processes(), torch.device("cpu"), silent)
    rows = [batch for batch, _ in islice(loader.epoch(0), ROWS)]
    preprocessing = build.preprocessing_of(config)
    mean, std = (torch.tensor(values)[:, None, None] for values in (preprocessing.mean, preprocessing.std))
    shown = (torch.cat(rows) * std + mean).clamp(0, 1)  # (N, C, H, W)
    sheet = (grid(shown) * 255).round().to(torch.uint8)  # (3, H', W')
    picture = Image.fromarray(sheet.permute(1, 2, 0).numpy())
    enlarged = max(1, _LEAST // max(preprocessing.image_size))
    picture = picture.resize((picture.width * enlarged, picture.height * enlarged), Image.Resampling.NEAREST)
    with atomic_write(path) as file:
        picture.save(file, format="PNG")
    tell(f"{len(shown)} augmented training images of the first epoch: {path}; nothing was trained")
