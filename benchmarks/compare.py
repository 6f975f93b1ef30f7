"""This package beside the authors' code and timm's ViT-S/16, in one process and in turn: speed, memory, latency.

    python benchmarks/compare.py --reference CHECKOUT [--only forward,shipped,train,latency,memory] [--arch ARCH]
                                 [--batch N] [--repeats N] [--checkpoint CKPT] [--output FILE.json]

CHECKOUT is one of github.com/yitu-opensource/T2T-ViT; it is imported as it is. Ratios are taken round by round and
given as the median with the least and the greatest. With a GPU everything runs there, else on the CPU.
"""

import argparse
import subprocess
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from reference import authors_model
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from turns import ROOT, circumstances, in_turn, rates, ratio, write

import t2t_vit
from t2t_vit.data.preprocessing import Preprocessing
from t2t_vit.inference.torch_predictor import TorchPredictor
from t2t_vit.precision import choose_device, choose_precision

DEVICE = choose_device("auto")
ON_GPU = DEVICE.type == "cuda"
THEIRS, OURS, VIT = "authors' code", "t2t_vit", "timm vit_small_patch16_224"
Section = dict[str, Any]


def main() -> None:
    options = parsed()
    sections: dict[str, Callable[[argparse.Namespace], Iterable[Section]]] = {
        "forward": forward,
        "shipped": shipped,
        "train": train,
        "latency": latency,
        "memory": memory,
    }
    unknown = set(options.only) - set(sections)
    if unknown:
        raise SystemExit(f"--only: {', '.join(sorted(unknown))} is none of {', '.join(sections)}")
    report: dict[str, Any] = {
        **circumstances(),
        "command": " ".join(["python", "benchmarks/compare.py", *sys.argv[1:]]),
    }
    report["command"] = report["command"].replace(str(options.reference), "CHECKOUT")
    report["timm"], report["sections"] = timm.__version__, []
    for name in options.only:
        for section in sections[name](options):
            report["sections"].append(section)
            print(table(section), flush=True)
    write(report, options.output or ROOT / "benchmarks/results" / f"{report['date'][:10]}-compare-{DEVICE.type}.json")


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, required=True)
    parser.add_argument(
        "--only", type=lambda text: text.split(","), default=["forward", "shipped", "train", "latency", "memory"]
    )
    parser.add_argument("--arch", default="t2t_vit_14")
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
    """Eager inference in the same precision."""
    models = {name: model.eval() for name, model in networks(options).items()}
    images = torch.randn(options.batch, 3, 224, 224, device=DEVICE)
    for level in ("O0", "bf16"):
        precision = choose_precision(level, DEVICE, training=False)

        @torch.inference_mode()
        def run(model: nn.Module, autocast: Any = precision.autocast) -> Tensor:
            with autocast():
                return model(images)

        seconds = in_turn({name: partial(run, model) for name, model in models.items()}, repeats=options.repeats)
        yield section(f"inference, eager, {level}, batch {options.batch}", seconds, options, [(OURS, THEIRS)])


def shipped(options: argparse.Namespace) -> Iterable[Section]:
    """What `t2t-vit infer --amp_level auto` runs, from uint8 pixels on, beside the authors' eager float32."""
    models = networks(options)
    theirs = models[THEIRS].eval()
    pixels = torch.randint(0, 256, (options.batch, 3, 224, 224), dtype=torch.uint8)
    preprocessing = Preprocessing((224, 224))
    images = preprocessing.normalize(pixels.to(DEVICE))
    precision = choose_precision("auto", DEVICE, training=False)
    predictor = TorchPredictor(models[OURS], preprocessing, None, precision)
    ours = f"{OURS} as shipped ({precision.name})"

    @torch.inference_mode()
    def eager() -> Tensor:
        return theirs(images)

    contestants: dict[str, Callable[[], object]] = {
        THEIRS + ", eager float32": eager,
        ours: lambda: predictor.logits(pixels),
    }
    pairs = [(ours, THEIRS + ", eager float32")]
    for name, rival in openvino_rivals(t2t_vit.create_model(options.arch), theirs.state_dict(), images):
        contestants[name] = rival
        pairs.append((ours, name))
    seconds = in_turn(contestants, repeats=options.repeats)
    found = section(f"inference as shipped, batch {options.batch}", seconds, options, pairs)
    if options.checkpoint is not None:
        found["kept"] = top1_kept(options.checkpoint)
    yield found


def openvino_rivals(model: nn.Module, weights: Any, images: Tensor) -> Iterable[tuple[str, Callable[[], object]]]:
    """OpenVINO in bfloat16 on the same weights, by each of its performance hints; none where it is not installed."""
    if ON_GPU:
        return
    try:
        import openvino
    except ImportError:
        print('OpenVINO is left out: pip install "t2t_vit[openvino]" brings it')
        return
    model.load_state_dict(weights)
    converted = openvino.convert_model(model.eval(), example_input=images, input=[list(images.shape)])
    content = images.numpy()
    for hint in ("LATENCY", "THROUGHPUT"):
        settings = {
            "INFERENCE_PRECISION_HINT": "bf16",
            "PERFORMANCE_HINT": hint,
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        }
        compiled = openvino.Core().compile_model(converted, "CPU", settings)
        yield f"OpenVINO bf16, {hint.lower()}", partial(compiled, content)


def top1_kept(checkpoint: Path, count: int = 200) -> dict[str, Any]:
    """How often amp_level auto answers as float32 does, and how often both are right, on embedded validation images."""
    from t2t_vit.data.embedded import fashion_mnist
    from t2t_vit.inference.rebuild import rebuild
    from t2t_vit.weights import read_weights

    answers = {}
    for level in ("O0", "auto"):
        rebuilt = rebuild(read_weights(checkpoint), {}, print)
        precision = choose_precision(level, DEVICE, training=False)
        predictor = TorchPredictor(rebuilt.model, rebuilt.preprocessing, rebuilt.classes, precision)
        images = fashion_mnist("val", rebuilt.preprocessing.mode)
        step = len(images) // count
        chosen = range(0, step * count, step)
        pixels = torch.stack([rebuilt.preprocessing(images.read(number)) for number in chosen])
        answers[level] = torch.cat([predictor.logits(batch).argmax(dim=1) for batch in pixels.split(8)])
        targets = torch.from_numpy(images.targets[list(chosen)])
    return {
        "images": count,
        "same_top1": float((answers["O0"] == answers["auto"]).float().mean()),
        "top1_float32": float((answers["O0"] == targets).float().mean()),
        "top1_auto": float((answers["auto"] == targets).float().mean()),
    }


def train(options: argparse.Namespace) -> Iterable[Section]:
    """One optimizer step each, eager and the same AdamW; on a GPU ours also as shipped, compiled."""
    targets = torch.randint(0, 1000, (options.batch,), device=DEVICE)
    images = torch.randn(options.batch, 3, 224, 224, device=DEVICE)
    for level in ("O0", "bf16"):
        precision = choose_precision(level, DEVICE, training=True)
        models = {name: model.train() for name, model in networks(options).items()}
        if ON_GPU:
            models[OURS + ", compiled"] = torch.compile(models[OURS])
        optimizers = {name: torch.optim.AdamW(model.parameters(), fused=True) for name, model in models.items()}

        def run(
            name: str, models: Any = models, optimizers: Any = optimizers, autocast: Any = precision.autocast
        ) -> None:
            with autocast():
                logits = models[name](images)
            cross_entropy(logits.float(), targets).backward()
            optimizers[name].step()
            optimizers[name].zero_grad()

        seconds = in_turn({name: partial(run, name) for name in models}, repeats=options.repeats)
        pairs = [(name, THEIRS) for name in models if name.startswith(OURS)]
        yield section(f"training step, {level}, batch {options.batch}", seconds, options, pairs)


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
    what = f"training step {options.arch} bf16" if ON_GPU else "inference as shipped t2t_vit_t_14 384 px"
    yield {
        "what": f"peak memory above the loaded model, {what}, batch {options.batch}",
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
        lines.append(f"  {name:<44}{value['median']:>9.1f} images/s  ({value['low']:.1f} to {value['high']:.1f})")
    for name, value in found.get("times_faster", {}).items():
        lines.append(f"  {name:<66}{value['median']:.2f} x  ({value['low']:.2f} to {value['high']:.2f})")
    for name, value in found.get("bytes", {}).items():
        lines.append(f"  {name:<44}{value / 1e6:>9.1f} MB")
    if "ratio" in found:
        lines.append(f"  ratio{found['ratio']:>48.3f}")
    if "kept" in found:
        lines.append(f"  {found['kept']}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
