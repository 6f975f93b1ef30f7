"""`t2t-vit quickstart`: train, evaluate, predict, export and draw the predictions, on the embedded images."""

import shutil
from dataclasses import replace
from pathlib import Path

from t2t_vit.assembly import build
from t2t_vit.assembly.run import Start, start_of
from t2t_vit.cli.eval import as_results, evaluate_weights, rounded
from t2t_vit.cli.export import Wish, announce, export_weights
from t2t_vit.cli.infer import InferenceJob, predict
from t2t_vit.cli.train import printed, train_job, where
from t2t_vit.data.images import ImageSet
from t2t_vit.errors import UserError
from t2t_vit.export.file_formats import find_format
from t2t_vit.files import atomic_write
from t2t_vit.inference.item import ImageResult, Item, Prediction
from t2t_vit.inference.load import load
from t2t_vit.notes import print_line, tell
from t2t_vit.report.pictures import Answer, draw_pictures, new_figure
from t2t_vit.report.run_files import ROOT_KEYS
from t2t_vit.settings.command_line import Options
from t2t_vit.settings.file import find_config, read_config, to_yaml
from t2t_vit.settings.schema import Config
from t2t_vit.training.distributed import Processes
from t2t_vit.training.run import AliveError, Folders, Lock, runs_of
from t2t_vit.weights import read_weights

FOLDER, NAME = Path("runs/quickstart"), "quickstart"
SHOWN = 40
LEFT = {
    "image files": "images",
    "predictions": "predictions.json",
    "pictures": "predictions.png",
    "ONNX": "{arch}.onnx",
}


def run(options: Options) -> int:
    """Everything once; what it leaves is in `runs/quickstart`, in place of what a finished quickstart left there."""
    options = replace(options, file=read_config(find_config("quickstart")))
    if options.print_config:
        print(to_yaml(printed(start_of(options, locks=False, name=NAME))), end="")
        return 0
    find_format("ONNX").check()  # report a missing package now, not after the training
    new_figure(1, 1)
    lock = Lock(tell)
    try:
        lock.take(FOLDER, fresh=False)
        lock.tell({})
        return _run(start_of(options, name=NAME))
    except AliveError as alive:
        raise UserError(f"{FOLDER} is in use by a running quickstart, {alive.who}; wait for it or stop it") from None
    finally:
        lock.release()


def _run(start: Start) -> int:
    config = start.config
    tell("1 of 5: train")
    trained = train_job(start if start.run or start.saved else replace(start, replaces=_earlier(config)), Processes())
    weights = read_weights(trained.checkpoint)

    tell("2 of 5: evaluate the checkpoint on the images that training did not use")
    measured = evaluate_weights(weights, replace(config, num_classes=len(weights.classes or ())), Processes(), tell)

    tell("3 of 5: predict the classes of image files")
    images = build.validation_images(config)
    files = write_images(images, FOLDER / "images")
    found: dict[str, Prediction] = {}
    job = InferenceJob(str(FOLDER / "predictions.json"))
    predict(load(trained.checkpoint), map(Item, files), job, lambda result: found.update(_best(result)))

    tell("4 of 5: export, and compare the file with the network")
    named = replace(config, num_classes=len(images.classes), file_format="ONNX")
    code = announce(lambda: export_weights(weights, named, Wish(folder=FOLDER)))

    tell("5 of 5: draw the predictions")
    title = f"{config.arch} on the embedded Fashion-MNIST"
    answers = [_answer(images, number, found[file]) for file, number in files.items()]
    draw_pictures(answers, FOLDER / "predictions.png", title=f"{title}, test images")

    print(rounded(measured))
    print(f"eval results: {as_results(measured.metrics)}")
    left = [f"{what:<18}{FOLDER / name.format(arch=config.arch)}" for what, name in LEFT.items()]
    for line in [*where(replace(trained, images=str(FOLDER / "images"))), *left]:
        print_line(line)
    return code


def _earlier(config: Config) -> Folders | None:
    """The folders of a finished quickstart, which this one takes the place of.

    Raises:
        UserError: one was stopped before its end.
    """
    roots = [getattr(config, key) for key in ROOT_KEYS]
    runs = [run for run in runs_of(NAME, config.run_name, roots) if run.mark is not None]
    stopped = [run.folders.checkpoints for run in runs if not run.finished]
    if stopped:
        raise UserError(
            f"{stopped[0]} belongs to a quickstart that was stopped; continue it with t2t-vit quickstart --resume "
            f"auto, or delete {FOLDER} to begin a new one"
        )
    return runs[0].folders if runs else None


def write_images(images: ImageSet, folder: Path) -> dict[str, int]:
    """Some images as PNG files NUMBER_CLASS.png in an empty `folder`: path -> number in the set."""
    shutil.rmtree(folder, ignore_errors=True)
    written = {}
    for number in build.some_images(images, SHOWN):
        path = folder / f"{number:04d}_{images.classes[images.targets[number]]}.png"
        with atomic_write(path) as file:
            images.read(number).save(file, format="PNG")
        written[str(path)] = number
    return written


def _best(result: ImageResult) -> dict[str, Prediction]:
    return {result.path: result.predictions[0]}


def _answer(images: ImageSet, number: int, found: Prediction) -> Answer:
    true = images.classes[images.targets[number]]
    return Answer(images.read(number), found.name or str(found.index), found.probability, true)
