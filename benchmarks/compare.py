"""This package beside the authors' code and timm's ViT-S/16, in one process and in turn: speed, memory, latency.

    python benchmarks/compare.py --reference CHECKOUT [--only forward,shipped,train,int8,latency,memory]
                                 [--arch ARCH,...] [--batch N] [--repeats N] [--checkpoint CKPT] [--output FILE.json]

CHECKOUT is one of github.com/yitu-opensource/T2T-ViT; it is imported as it is. Ratios are taken round by round and
given as the median with the least and the greatest. With a GPU everything runs there, else on the CPU.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from agreement import answers_kept, top1_kept
from reference import authors_model
from rivals import by_openvino
from torch import Tensor, nn
from turns import ROOT, circumstances, in_turn, rates, ratio, write

import t2t_vit
from t2t_vit import fuse, pack
from t2t_vit.bench.rates import rates_of
from t2t_vit.data.preprocessing import Preprocessing
from t2t_vit.inference.torch_predictor import TorchPredictor, Workload, plan_for
from t2t_vit.precision import Precision, choose_device, choose_precision, choose_products
from t2t_vit.training.compilation import obstacle_to_compiling
from t2t_vit.training.measurements import training_flops
from training import as_shipped, authors_amp, plain

DEVICE = choose_device("auto")
ON_GPU = DEVICE.type == "cuda"
THEIRS, OURS, VIT = "authors' code", "t2t_vit", "timm vit_small_patch16_224"
FAST = f"{OURS}, fused" if ON_GPU else f"{OURS}, packed"
# On a GPU: runs that follow each other without waiting, as in real work, and rounds until clocks and allocator settled.
AT_A_TIME, WARM_UP = (10, 5) if ON_GPU else (1, 2)
MANY = 10_000_000  # images of a job that is worth compiling
Section = dict[str, Any]


def main() -> None:
    options = parsed()
    unknown = set(options.only) - set(SECTIONS)
    if unknown:
        raise SystemExit(f"--only: {', '.join(sorted(unknown))} is none of {', '.join(SECTIONS)}")
    report: dict[str, Any] = {
        **circumstances(),
        "command": " ".join(["python", "benchmarks/compare.py", *sys.argv[1:]]),
    }
    report["command"] = report["command"].replace(str(options.reference), "CHECKOUT")
    if options.checkpoint is not None:
        report["command"] = report["command"].replace(str(options.checkpoint), "CKPT")
    report["timm"], report["sections"] = timm.__version__, []
    for arch in options.arch.split(","):
        for name in options.only:
            for section in SECTIONS[name](argparse.Namespace(**{**vars(options), "arch": arch})):
                report["sections"].append(section)
                print(table(section), flush=True)
            torch.accelerator.empty_cache() if ON_GPU else None
    write(report, options.output or ROOT / "benchmarks/results" / f"{report['date'][:10]}-compare-{DEVICE.type}.json")


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, required=True)
    parser.add_argument(
        "--only",
        type=lambda text: text.split(","),
        default=["forward", "shipped", "train", "int8", "latency", "memory"],
    )
    parser.add_argument("--arch", default="t2t_vit_14,t2t_vit_19,t2t_vit_t_14" if ON_GPU else "t2t_vit_14")
    parser.add_argument("--batch", type=int, default=256 if ON_GPU else 8)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--checkpoint", type=Path, help="of --arch: is top-1 kept on real images by amp_level auto?")
    parser.add_argument("--output", type=Path)
    return parser.parse_args()


def networks(options: argparse.Namespace) -> dict[str, nn.Module]:
    """The three, the authors' weights in ours."""
    theirs = authors_model(options.reference, options.arch).to(DEVICE)
    ours = t2t_vit.create_model(options.arch).to(DEVICE)
    ours.load_state_dict(theirs.state_dict())
    return {THEIRS: theirs, OURS: ours, VIT: timm.create_model("vit_small_patch16_224").to(DEVICE)}


def forward(options: argparse.Namespace) -> Iterable[Section]:
    """Eager inference in the same precision: the plain networks, and ours packed (on a GPU fused)."""
    models = {name: model.eval() for name, model in networks(options).items()}
    images = torch.randn(options.batch, 3, 224, 224, device=DEVICE)
    for level in ("O0", "bf16"):
        precision = choose_precision(level, DEVICE, training=False)
        choose_products(precision)  # for all: what is left in float32 beside bf16 is TF32 for the authors' code, too

        @torch.inference_mode()
        def run(model: nn.Module, autocast: Any = precision.autocast) -> Tensor:
            with autocast():
                return model(images)

        contestants: dict[str, Callable[[], object]] = {name: partial(run, model) for name, model in models.items()}
        fast = fuse(deepcopy(models[OURS])) if ON_GPU else pack(models[OURS], precision.product_dtype)
        contestants[FAST] = partial(run, fast)
        rivals = {} if ON_GPU or level != "O0" else by_openvino(models[OURS], images, "f32")
        pairs = [(OURS, THEIRS), *((FAST, name) for name in (THEIRS, *rivals))]
        seconds = timed({**contestants, **rivals}, options)
        yield section(f"inference, eager, {level}, batch {options.batch}", seconds, options, pairs)


def shipped(options: argparse.Namespace) -> Iterable[Section]:
    """What `t2t-vit infer --amp_level auto` runs, from uint8 pixels on, beside the authors' eager float32."""
    models = networks(options)
    theirs = models[THEIRS].eval()
    pixels = torch.randint(0, 256, (options.batch, 3, 224, 224), dtype=torch.uint8)
    preprocessing = Preprocessing((224, 224))
    images = preprocessing.normalize(pixels.to(DEVICE))
    precision = choose_precision("auto", DEVICE, training=False)
    choose_products(precision)
    work = Workload(MANY if options.batch > 1 else 0, options.batch)
    plan = plan_for(DEVICE.type, work, lambda: obstacle_to_compiling(DEVICE))
    predictor = TorchPredictor(models[OURS].eval(), preprocessing, None, precision, plan, kernels="auto")
    ours = f"{OURS} as shipped ({precision.name}{f', {plan}' if ON_GPU else ''})"

    @torch.inference_mode()
    def eager() -> Tensor:
        return theirs(images)

    contestants: dict[str, Callable[[], object]] = {
        THEIRS + ", eager float32": eager,
        ours: Ahead(predictor, pixels) if options.batch > 1 else lambda: predictor.logits(pixels),
    }
    pairs = [(ours, THEIRS + ", eager float32")]
    if ON_GPU:
        amp = f"{THEIRS}, its own AMP (fp16)"
        contestants[amp] = lambda: _under_amp(theirs, images)
        pairs.append((ours, amp))
    if not ON_GPU:
        rivals = by_openvino(models[OURS], images, "bf16")
        contestants.update(rivals)
        pairs += [(ours, name) for name in rivals]
    seconds = timed(contestants, options)
    found = section(f"inference as shipped, batch {options.batch}", seconds, options, pairs)
    if options.checkpoint is not None:
        found["kept"] = top1_kept(options.checkpoint, DEVICE)
    yield found


@torch.inference_mode()
def _under_amp(model: nn.Module, images: Tensor) -> Tensor:
    with torch.autocast("cuda", dtype=torch.float16):
        return model(images)


class Ahead:
    """Begins a batch before it asks for the answers of the one before, as `infer` does."""

    def __init__(self, predictor: TorchPredictor, pixels: Tensor) -> None:
        self._predictor, self._pixels = predictor, pixels
        self._waiting: Callable[[], Tensor] | None = None

    def __call__(self) -> None:
        before, self._waiting = self._waiting, self._predictor.begin(self._pixels)
        if before is not None:
            before()


def train(options: argparse.Namespace) -> Iterable[Section]:
    """One optimizer step each, the same AdamW: eager, and on a GPU ours as shipped against the authors' own AMP."""
    targets = torch.randint(0, 1000, (options.batch,), device=DEVICE)
    images = torch.randn(options.batch, 3, 224, 224, device=DEVICE)
    for level in ("bf16",) if ON_GPU and options.arch.startswith("t2t_vit_t_") else ("O0", "bf16"):
        precision = choose_precision(level, DEVICE, training=True)
        choose_products(precision)
        models = networks(options)
        flops = {name: training_flops(models[name], (3, 224, 224)) for name in (OURS, VIT)}
        steps = {name: plain(model, images, targets, precision.autocast) for name, model in models.items()}
        pairs = [(OURS, THEIRS)]
        if ON_GPU:
            shipped = f"{OURS} as shipped, fused and compiled"
            steps[shipped] = as_shipped(fuse(deepcopy(models[OURS])), images, targets, precision.autocast)
            pairs.append((shipped, THEIRS))
        if ON_GPU and level == "bf16":
            amp = f"{THEIRS}, its own AMP (fp16)"
            steps[amp] = authors_amp(models[THEIRS], images, targets)
            pairs.append((shipped, amp))
        seconds = timed(steps, options)
        found = section(f"training step, {level}, batch {options.batch}", seconds, options, pairs)
        # The arithmetic is the network's, whoever computes it: both T2T-ViTs are divided by the same number.
        work = {name: flops[VIT if name == VIT else OURS] for name in steps}
        yield {**found, "mfu": utilisation(found["images_per_second"], work, precision)}


def utilisation(rate: dict[str, dict[str, float]], flops: dict[str, int], precision: Precision) -> dict[str, Any]:
    """MFU of each contestant: of the data sheet, where it is known, and of a measured product in the same numbers."""
    rates = rates_of(DEVICE, precision.autocast_dtype or precision.weights_dtype)
    found: dict[str, Any] = {"rates": vars(rates)}
    for name, each in rate.items():
        done = each["median"] * flops[name]
        found[name] = {
            "of_data_sheet": None if rates.datasheet is None else done / rates.datasheet,
            "of_measured_product": done / rates.measured,
        }
    return found


def timed(contestants: dict[str, Callable[[], object]], options: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of a run of each, several at a time."""

    def several(run: Callable[[], object]) -> None:
        for _ in range(AT_A_TIME):
            run()

    seconds = in_turn(
        {name: partial(several, run) for name, run in contestants.items()}, repeats=options.repeats, warm_up=WARM_UP
    )
    return {name: [value / AT_A_TIME for value in values] for name, values in seconds.items()}


def int8(options: argparse.Namespace) -> Iterable[Section]:
    """What `export --precision int8` writes and `infer` runs, beside our own bfloat16; a checkpoint calibrates it."""
    if ON_GPU or options.checkpoint is None:
        return
    with tempfile.TemporaryDirectory() as folder:
        export = Path(sys.executable).with_name("t2t-vit")
        words = [str(export), "export", "--file_format", "OPENVINO", "--precision", "int8"]
        words += ["--pretrained", str(options.checkpoint.resolve())]
        subprocess.run(words, check=True, cwd=folder, stdout=subprocess.DEVNULL)
        quantised = t2t_vit.load(next(Path(folder).glob("*.xml")), amp_level="auto")
        bf16 = t2t_vit.load(options.checkpoint, amp_level="bf16", kernels="auto")
        size = bf16.preprocessing.image_size
        pixels = torch.randint(0, 256, (options.batch, bf16.preprocessing.in_chans, *size), dtype=torch.uint8)
        ours, low = f"{OURS}, exported to OpenVINO in int8", f"{OURS} as shipped (bf16)"
        contestants: dict[str, Callable[[], object]] = {
            low: partial(bf16.logits, pixels),
            ours: partial(quantised.logits, pixels),
        }
        seconds = timed(contestants, options)
        yield {
            **section(f"int8, batch {options.batch}", seconds, options, [(ours, low)]),
            "kept": answers_kept(bf16, quantised),
        }


def latency(options: argparse.Namespace) -> Iterable[Section]:
    """One image: the authors' eager float32, ours as shipped."""
    single = argparse.Namespace(**{**vars(options), "batch": 1, "repeats": 3 * options.repeats, "checkpoint": None})
    yield from shipped(single)


def memory(options: argparse.Namespace) -> Iterable[Section]:
    """Peak memory above the loaded model: t2t_vit_t_14 at 384 px on a CPU, a training step on a GPU; a process each."""
    found = {}
    for who in ("theirs", "ours"):
        words = [sys.executable, str(Path(__file__).with_name("memory.py")), str(options.reference), who]
        words += [options.arch if ON_GPU else "t2t_vit_t_14", str(options.batch)]
        answer = subprocess.run(words, check=True, capture_output=True, text=True)
        found[who] = int(answer.stdout.split()[-1])
    what = f"training step {options.arch} bf16" if ON_GPU else "t2t_vit_t_14 at 384 px"
    yield {
        "what": f"memory above the loaded model, {what}, batch {options.batch}",
        "bytes": {THEIRS: found["theirs"], OURS: found["ours"]},
        "ratio": found["ours"] / found["theirs"],
    }


def section(
    what: str, seconds: dict[str, list[float]], options: argparse.Namespace, pairs: Iterable[tuple[str, str]]
) -> Section:
    """Rates and ratios of one comparison."""
    ratios = {f"{ours} / {theirs}": ratio(seconds, ours, theirs) for ours, theirs in pairs}
    rate = rates(seconds, options.batch)
    return {"what": f"{options.arch}, {what}, {DEVICE.type}", "images_per_second": rate, "times_faster": ratios}


def table(found: Section) -> str:
    """A section for people."""
    lines = [found["what"]]
    for name, value in found.get("images_per_second", {}).items():
        lines.append(f"  {name:<44} {value['median']:>9.1f} images/s  ({value['low']:.1f} to {value['high']:.1f})")
    for name, value in found.get("times_faster", {}).items():
        lines.append(f"  {name:<66} {value['median']:.2f} x  ({value['low']:.2f} to {value['high']:.2f})")
    for name, value in found.get("bytes", {}).items():
        lines.append(f"  {name:<44}{value / 1e6:>9.1f} MB")
    if "ratio" in found:
        lines.append(f"  ratio{found['ratio']:>48.3f}")
    for name, value in found.get("mfu", {}).items():
        if name != "rates":
            sheet = value["of_data_sheet"]
            told = "" if sheet is None else f"{sheet:.1%} of the data sheet, "
            lines.append(f"  MFU {name:<62} {told}{value['of_measured_product']:.1%} of a measured product")
    if "kept" in found:
        lines.append(f"  {found['kept']}")
    return "\n".join(lines)


SECTIONS: dict[str, Callable[[argparse.Namespace], Iterable[Section]]] = {
    "forward": forward,
    "shipped": shipped,
    "train": train,
    "int8": int8,
    "latency": latency,
    "memory": memory,
}

if __name__ == "__main__":
    main()
