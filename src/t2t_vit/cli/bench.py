"""`t2t-vit bench model|step|data`: how fast it is here, by part, as a table and as JSON."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from t2t_vit.assembly import build
from t2t_vit.bench.circumstances import circumstances
from t2t_vit.bench.data import measure_batch_transform, measure_loader, measure_reading
from t2t_vit.bench.network import measure_network
from t2t_vit.bench.rates import Rates, rates_of
from t2t_vit.bench.step import measure_step
from t2t_vit.bench.tables import (
    print_kept,
    print_loader,
    print_network,
    print_on_device,
    print_reading,
    print_step,
    print_step_of_data,
)
from t2t_vit.data.batch_transform import Share
from t2t_vit.data.cache import keep_decoded
from t2t_vit.data.decode import MODES
from t2t_vit.data.folder import reduced
from t2t_vit.data.images import ArrayImages, ImageSet
from t2t_vit.data.loader import Batch
from t2t_vit.data.memory import budget_of
from t2t_vit.data.readable import read_sizes
from t2t_vit.data.workers import usable_workers
from t2t_vit.errors import UserError
from t2t_vit.fast.kernels import check_kernels, fused_or_plain
from t2t_vit.files import write_json
from t2t_vit.inference.torch_predictor import TorchPredictor, Workload, plan_for
from t2t_vit.inference.writers import check_output
from t2t_vit.notes import tell
from t2t_vit.platforms import has_memory_files
from t2t_vit.precision import Precision, choose_device, choose_precision, choose_products
from t2t_vit.settings.command_line import Options
from t2t_vit.settings.file import to_yaml
from t2t_vit.settings.resolution import resolve
from t2t_vit.settings.rules import image_size_of
from t2t_vit.settings.schema import Config
from t2t_vit.training.compilation import compile_for_training
from t2t_vit.training.distributed import Processes
from t2t_vit.training.measurements import training_flops

CPU_BATCH = 8  # the rate of a network on a few cores hardly depends on it
Results = dict[str, Any]


@dataclass
class Bench:
    """What every measurement needs to know; what there is to say waits until nothing can be refused any more."""

    options: Options
    config: Config
    device: torch.device
    precision: Precision
    rounds: int
    waiting: list[str]
    about: Results  # the circumstances, shown in the JSON and above the tables

    def begin(self) -> None:
        """Print what waited."""
        choose_products(self.precision, self.waiting.append)
        for text in self.waiting:
            tell(text)

    def rates(self) -> Rates:
        """What the device could do in the numbers that are computed in."""
        return rates_of(self.device, self.precision.autocast_dtype or self.precision.weights_dtype)


def run(options: Options) -> int:
    """Measure, print the tables, and write `output`."""
    config, told = resolve(options)
    config = replace(config, crop_schedule="")  # a step is measured at image_size
    if options.print_config:
        print(to_yaml(config), end="")
        return 0
    output = options.extras.get("output")
    if output is not None:
        check_output(output)
    subject = options.data
    if options.extra("step") and subject != "data":
        raise UserError(f"--step belongs to bench data; leave it out of bench {subject}")
    device = choose_device(config.device_target, config.device_id, note=told.append)
    precision = choose_precision(config.amp_level, device, training=subject != "model", note=told.append)
    check_kernels(config.kernels, device)
    config = _fitted(options, config, device, told.append)
    about: Results = {
        **circumstances(["t2t-vit", *sys.argv[1:]]),
        "bench": subject,
        "device": device.type,
        "precision": precision.name,
        "rounds": options.extra("rounds"),
        "config": config.to_dict(),
    }
    bench = Bench(options, config, device, precision, options.extra("rounds"), told, about)
    found = about | SUBJECTS[subject](bench)
    if output is not None:
        write_json(Path(output), found)
        tell(f"written to {output}")
    return 0


def of_network(bench: Bench) -> Results:
    """`bench model`: compiled, too, where `pynative_mode False` is on the command line or in the file."""
    config, precision = bench.config, bench.precision
    bench.begin()
    rates = bench.rates()
    model = build.network(config, config.num_classes)
    tell(f"network: {fused_or_plain(model, config.kernels, bench.device)}")
    precision.prepare(model)
    forms: dict[str, torch.nn.Module] = {"eager": model}
    if not bench.options.said("pynative_mode", True):
        compiled = compile_for_training(model, bench.device, tell)
        if compiled is not model:
            forms["compiled"] = compiled
    shape = (config.batch_size, config.in_chans, *image_size_of(config))
    images = torch.randn(shape, device=bench.device)
    others = {"forward, as infer runs it": predicting(bench)}
    measured = measure_network(model, forms, others, images, precision, rates, bench.rounds)
    found = {"rates": vars(rates), **measured}
    print_network(bench.about | found)
    return found


def predicting(bench: Bench) -> Callable[[], object]:
    """From pixels in memory to logits in memory, in the way that `infer` takes for a work of unknown size."""
    config = bench.config
    shape = (config.batch_size, config.in_chans, *image_size_of(config))
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8)
    network = build.network(config, config.num_classes)
    plan = plan_for(bench.device.type, Workload(batch=config.batch_size))
    predictor = TorchPredictor(network, build.preprocessing_of(config), None, bench.precision, plan, config.kernels)
    tell(f"network, as infer runs it: {predictor.made_of}")
    return lambda: predictor.logits(pixels)


def of_step(bench: Bench) -> Results:
    """`bench step`: random images that lie on the device, and the step that `train` would take."""
    config = bench.config
    classes = [str(number) for number in range(config.num_classes)]
    targets = np.arange(max(config.batch_size, len(classes))) % len(classes)
    images = ArrayImages(np.zeros((len(targets), 1, 1), np.uint8), targets, classes, MODES[config.in_chans], "made up")
    bench.begin()
    found = step_results(bench, images)
    print_step(bench.about | found)
    return found


def step_results(bench: Bench, images: ImageSet) -> Results:
    """The step's figures; `images` tell the classes, none of them is read."""
    config, precision, rates = bench.config, bench.precision, bench.rates()
    model = build.network(config, len(images.classes))
    tell(f"network: {fused_or_plain(model, config.kernels, bench.device)}")
    precision.prepare(model)
    trained = build.trained_of(config, model, precision)
    step = build.step_of(config, trained, images, precision, Processes(), tell)
    flops = training_flops(model, (config.in_chans, *image_size_of(config)))
    batch = made_up(config, len(images.classes), bench.device)
    found = measure_step(step, batch, bench.device, rates, flops, bench.rounds)
    return {
        "compiled": not config.pynative_mode and bool(found["graphs"]["graphs"]),
        "rates": vars(rates),
        "step": found,
    }


def made_up(config: Config, num_classes: int, device: torch.device) -> Callable[[], Batch]:
    """Makes batches of random pixels on the device, normalised, erased and mixed as the loader's."""
    size = config.batch_size
    transform = build.batch_transform(config, num_classes)
    pixels = torch.randint(0, 256, (size, config.in_chans, *image_size_of(config)), dtype=torch.uint8, device=device)
    targets = torch.arange(size, device=device) % num_classes
    numbers = np.arange(size)
    return lambda: transform(pixels, targets, 0, numbers, Share(0, 0, size, size))


def of_data(bench: Bench) -> Results:
    """`bench data`: the parts on one core, and the loader with none and with all workers, each printed as it is found.

    With `--step` what a training step takes comes last: a recipe's network is compiled for it, which takes minutes.
    """
    config = bench.config
    mode, transform = MODES[config.in_chans], build.train_transform(config)
    images = reduced(build.training_images(config, bench.waiting.append)[0], transform.reduction)
    bench.begin()
    batch = min(config.batch_size, len(images))
    found: Results = {"images": len(images), "kept": None, "loader": []}

    def keep(show: Callable[[Results], None], **figures: Results) -> None:
        found.update(figures)
        show(bench.about | found)

    keep(print_reading, reading=measure_reading(images, mode, transform, batch, bench.rounds))
    if config.dataset == "ImageNet" and config.cache != "off" and has_memory_files():
        sizes = read_sizes(images, transform.reduction)
        kept, _ = keep_decoded(images, mode, budget_of(config.cache), sizes, what="training images", note=tell)
        if kept is not images:
            keep(print_kept, kept=measure_reading(kept, mode, transform, batch, bench.rounds, kept=True))
    on_device = build.batch_transform(config, len(images.classes))
    keep(
        print_on_device,
        on_device=measure_batch_transform(on_device, config.in_chans, batch, bench.device, bench.rounds),
    )
    for workers in sorted({0, _workers(config)}):
        found["loader"].append(_loader(bench, images, workers))
        print_loader(found["loader"][-1])
    if bench.options.extra("step"):
        found.update(step_results(bench, images))
        print_step_of_data(bench.about | found)
    return found


def _loader(bench: Bench, images: ImageSet, workers: int) -> Results:
    config = replace(bench.config, num_parallel_workers=workers)
    loader = build.train_loader(config, images, len(images.classes), Processes(), bench.device, tell)
    return measure_loader(loader, workers, bench.rounds)


def _workers(config: Config) -> int:
    usable = usable_workers(config.num_parallel_workers)
    if usable < config.num_parallel_workers:
        tell(f"num_parallel_workers {config.num_parallel_workers} is reduced to {usable}, the number of cores")
    return usable


def _fitted(options: Options, config: Config, device: torch.device, note: build.Note) -> Config:
    """`config` with what nobody said and the measurement has to know."""
    if options.data == "data":
        if not (options.said("dataset", "") or config.data_url):
            note("no data folder is given: reading the small embedded Fashion-MNIST; --data_url FOLDER reads yours")
            return replace(config, dataset="FashionMNIST")
        return config
    size = config.batch_size
    if device.type == "cpu" and not options.said("batch_size", 0):
        note(f"batch_size {CPU_BATCH}, because the device is a CPU; --batch_size sets another")
        size = CPU_BATCH
    return replace(config, batch_size=size, num_classes=config.num_classes or 1000)


SUBJECTS: dict[str, Callable[[Bench], Results]] = {"model": of_network, "step": of_step, "data": of_data}
