"""Networks whose logits have the spread of a trained one's, and what MINDIR files are made of."""

import torch

import t2t_vit
from t2t_vit.data.preprocessing import Preprocessing
from t2t_vit.export.job import ExportJob
from t2t_vit.inference.exported import Metadata
from t2t_vit.model import T2TViT

SPREAD = 14.0


def pictures(size: tuple[int, int], chans: int = 3, count: int = 6) -> torch.Tensor:
    """uint8 (count, chans, height, width), smooth as pictures are, no two alike."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(count, chans, 5, 5, generator=generator)
    return (torch.nn.functional.interpolate(coarse, size, mode="bicubic").clamp(0, 1) * 255).byte()


def network(arch: str, size: tuple[int, int], *, seed: int = 0, num_classes: int = 20, **options: object) -> T2TViT:
    """In eval mode; every tensor matters to the logits, whose standard deviation is 14."""
    torch.manual_seed(seed)
    return spread(t2t_vit.create_model(arch, image_size=size, num_classes=num_classes, **options).eval())


@torch.no_grad()
def spread(model: T2TViT) -> T2TViT:
    """The model, its weights changed so that every tensor matters to the logits, whose standard deviation is 14."""
    for name, weight in model.named_parameters():
        if weight.ndim == 1:
            weight.add_(torch.randn_like(weight) * 0.1)
        elif weight.ndim == 2 and not name.startswith("head"):
            weight.mul_(2)
    size, channels = model.image_size, model.in_chans
    images = Preprocessing(size, in_chans=channels).normalize(pictures(size, channels))
    model.head.weight.mul_(SPREAD / float(model(images).std()))
    return model


def job(model: T2TViT, **kind: object) -> ExportJob:
    """What `write_mindir` is given; `kind` is attributes of `Metadata`."""
    preprocessing = Preprocessing(model.image_size, in_chans=model.in_chans)
    classes = tuple(f"Klasse {index} ü" for index in range(model.num_classes))
    metadata = Metadata(model.name, preprocessing, classes, model.num_classes, **kind)
    return ExportJob(model, metadata, pictures(model.image_size, model.in_chans))
