"""Settings -> objects: each key arrives where it belongs. The values differ in every key, so that none can stand in."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from t2t_vit import create_model
from t2t_vit.assembly import build
from t2t_vit.data.batch_transform import BatchTransform, Mixing, RandomErasing
from t2t_vit.data.image_transform import TrainTransform
from t2t_vit.data.images import ArrayImages, ImageSet
from t2t_vit.data.loader import BadImages
from t2t_vit.data.preprocessing import Preprocessing
from t2t_vit.errors import UserError
from t2t_vit.model import T2TViT
from t2t_vit.precision import Precision, choose_precision
from t2t_vit.settings.schema import Config
from t2t_vit.training.distributed import Processes
from t2t_vit.training.loss import BinaryCrossEntropy, WeightedCrossEntropy
from t2t_vit.training.optimizer import Schedule
from t2t_vit.training.state import State
from t2t_vit.weights import Weights

CPU = torch.device("cpu")
SECOND_OF_TWO = Processes(rank=1, local=1, count=2)
CONFIG = Config(
    arch="t2t_vit_quickstart", image_size=(28, 32), in_chans=3, dataset="FashionMNIST", seed=7,
    train_num_samples=30, val_num_samples=20,
    auto_augment="rand-m5", aa_interpolation="nearest", train_interpolation="bicubic", min_crop=0.31, hflip=0.32,
    color_jitter=0.33, re_mode="const", re_prob=0.34, re_count=3, cutmix=0.35, mixup=0.36, mixup_prob=0.37,
    mixup_mode="pair", mixup_off_epoch=5.0, switch_prob=0.38, label_smoothing=0.39, crop_pct=0.7, mean=(0.1, 0.2, 0.3),
    std=(0.4, 0.5, 0.6),
    optimizer="adamw", beta=(0.81, 0.92), eps=1e-5, base_lr=0.01, min_lr=0.002, lr_scheduler="exp_lr", lr_adjust=11,
    lr_gamma=0.93, momentum=0.71, weight_decay=0.17,
    epochs=13, batch_size=6, accumulation_step=4, loss_scale=64.0, num_parallel_workers=1, warmup_length=3.0,
    warmup_lr=0.0003, clip_grad_norm=2.5, with_ema=True, ema_decay=0.77, dataset_sink_mode=False, pynative_mode=True,
    drop=0.11, drop_block=0.12, drop_path=0.13, performer_drop=0.14, kernels="reference",
)  # fmt: skip


class Recorder:
    """Stands for a class or a function, and keeps what it was called with."""

    def __init__(self) -> None:
        self.arguments: tuple[Any, ...] = ()
        self.keys: dict[str, Any] = {}

    def __call__(self, *arguments: Any, **keys: Any) -> "Recorder":
        self.arguments, self.keys = arguments, keys
        return self


@pytest.fixture
def record(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`record("TrainLoader")`: the name, as `build` knows it, is replaced by a recorder."""

    def replaced(name: str) -> Recorder:
        recorder = Recorder()
        monkeypatch.setattr(build, name, recorder)
        return recorder

    return replaced


def images_of(*counts: int) -> ArrayImages:
    targets = np.repeat(np.arange(len(counts)), counts)
    return ArrayImages(np.zeros((len(targets), 2, 2), np.uint8), targets, "abcdef"[: len(counts)], "L", "noise")


def test_preprocessing() -> None:
    assert build.preprocessing_of(CONFIG) == Preprocessing((28, 32), 0.7, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), 3)
    assert build.preprocessing_of(Config()).image_size == (224, 224)


def test_what_happens_to_an_image() -> None:
    assert build.train_transform(CONFIG) == TrainTransform(
        (28, 32), 3, 0.31, 0.32, 0.33, "rand-m5", "nearest", "bicubic", (0.1, 0.2, 0.3)
    )


def test_what_happens_to_a_batch() -> None:
    erasing, mixing = RandomErasing(0.34, "const", 3), Mixing(0.36, 0.35, 0.37, 0.38, "pair", 5.0)
    preprocessing = build.preprocessing_of(CONFIG)
    assert build.batch_transform(CONFIG, 9) == BatchTransform(preprocessing, 9, erasing, mixing, 0.39, 7)


def test_training_loader(record: Any) -> None:
    made, images, said = record("TrainLoader"), images_of(3), print
    build.train_loader(CONFIG, images, 9, SECOND_OF_TWO, CPU, said)
    assert made.arguments == (images, build.train_transform(CONFIG), build.batch_transform(CONFIG, 9))
    assert made.keys == {
        "batch_size": 6,
        "sizes": (),
        "balanced": False,
        "views": 1,
        "accumulation": 4,
        "workers": 1,
        "rank": 1,
        "world": 2,
        "device": CPU,
        "ahead": False,
        "bad": BadImages(note=said),
        "note": said,
    }
    build.train_loader(replace(CONFIG, class_balance="sampling"), images, 9, SECOND_OF_TWO, CPU, said)
    assert made.keys["balanced"] is True
    build.train_loader(replace(CONFIG, repeated_augment=3), images, 9, SECOND_OF_TWO, CPU, said)
    assert made.keys["views"] == 3
    build.train_loader(
        replace(CONFIG, crop_schedule="96x64:0.5,128:1.0", epochs=5), images, 9, SECOND_OF_TWO, CPU, said
    )
    assert made.keys["sizes"] == (((96, 64), 2), ((128, 128), 5))


def test_evaluation_loader(record: Any) -> None:
    made, images, preprocessing = record("EvalLoader"), images_of(3), build.preprocessing_of(CONFIG)
    build.eval_loader(CONFIG, images, preprocessing, SECOND_OF_TWO, CPU, print)
    assert made.arguments == (images, preprocessing)
    assert made.keys == {
        "batch_size": 6,
        "workers": 1,
        "rank": 1,
        "world": 2,
        "device": CPU,
        "ahead": False,
        "kept": None,
        "bad": BadImages(note=print),
        "note": print,
    }


FOLDERS = replace(CONFIG, dataset="ImageNet", data_url="photos", train_dir="learn", val_dir="check", val_split=0.3)
OPENED = {
    "dataset": "ImageNet",
    "data_url": "photos",
    "train_dir": "learn",
    "val_dir": "check",
    "val_split": 0.3,
    "in_chans": 3,
    "split_seed": 0,
    "max_pixels": 0,
    "own": [Path("runs", name).resolve() for name in ("checkpoints", "best_checkpoints", "summary", "logs")],
    "note": print,
}


def test_where_images_come_from(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(build, "open_images", lambda part, **keys: seen.append((part, keys)) or images_of(1, 1))
    monkeypatch.setattr(build, "open_training_images", lambda **keys: seen.append(keys) or (images_of(2), images_of(1)))
    build.validation_images(FOLDERS, print)
    build.training_images(FOLDERS, print)
    assert seen == [
        ("val", OPENED | {"num_samples": 20, "seed": 7, "classes": None, "path": ""}),
        OPENED
        | {"train_num_samples": 30, "val_num_samples": 20, "seed": 7, "val_seed": 7, "recorded": None, "classes": None},
    ]
    usual = replace(FOLDERS, train_dir=Config().train_dir, val_dir=Config().val_dir)
    build.training_images(usual, print)
    assert (seen[-1]["train_dir"], seen[-1]["val_dir"]) == (None, None)  # nobody chose: the usual names are tried


def names(images: ImageSet) -> list[str]:
    return [images.name(number) for number in range(len(images))]


def test_eval_measures_on_the_images_that_training_did() -> None:
    _, of_training = build.training_images(CONFIG, lambda _: None)
    assert names(build.validation_images(CONFIG)) == names(of_training)
    assert names(build.validation_images(replace(CONFIG, seed=8))) != names(of_training)


def test_val_seed_draws_the_same_validation_images_for_every_seed() -> None:
    drawn = [build.training_images(replace(CONFIG, seed=seed, val_seed=7), lambda _: None) for seed in (7, 8)]
    assert names(drawn[0][0]) != names(drawn[1][0])
    assert names(drawn[0][1]) == names(drawn[1][1]) == names(build.validation_images(CONFIG))
    assert names(build.validation_images(replace(CONFIG, seed=8, val_seed=7))) == names(drawn[0][1])


def test_a_class_count_that_the_images_do_not_have_is_refused() -> None:
    for opened in (build.validation_images, lambda config: build.training_images(config, lambda _: None)):
        with pytest.raises(UserError, match="num_classes is 3"):
            opened(replace(CONFIG, num_classes=3))


def test_network(record: Any) -> None:
    model = build.network(CONFIG, 9)
    assert (model.name, model.num_classes, model.in_chans, model.image_size) == ("t2t_vit_quickstart", 9, 3, (28, 32))
    assert model.approximate_gelu is False
    assert build.network(replace(CONFIG, disable_approximate_gelu=False), 9).approximate_gelu is True
    torch.manual_seed(7)
    same = create_model("t2t_vit_quickstart", num_classes=9, image_size=(28, 32))
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in same.state_dict().items())
    made = record("create_model")
    made.freeze = lambda freeze: setattr(made, "frozen", freeze)
    build.network(replace(CONFIG, freeze="tokens"), 9)
    drops = {name: made.keys[name] for name in ("drop", "drop_block", "drop_path", "performer_drop")}
    assert drops == {"drop": 0.11, "drop_block": 0.12, "drop_path": 0.13, "performer_drop": 0.14}
    assert made.frozen == "tokens"


def test_optimizer() -> None:
    model = fresh(3, 0)
    decayed, free = sorted(build.optimizer_of(CONFIG, model).param_groups, key=lambda group: -group["weight_decay"])
    for group in (decayed, free):
        assert (group["betas"], group["eps"], group["lr"]) == ((0.81, 0.92), 1e-5, 0.01)
        assert "lr_scale" not in group
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.17, 0.0)
    assert build.optimizer_of(replace(CONFIG, optimizer="sgd"), model).param_groups[0]["momentum"] == 0.71
    assert build.optimizer_of(replace(CONFIG, optimizer="sgd"), model).param_groups[0]["nesterov"] is True
    assert build.optimizer_of(replace(CONFIG, optimizer="momentum"), model).param_groups[0]["nesterov"] is False


def test_lower_layers_learn_slower() -> None:
    model = fresh(3, 0)
    scales = build.layer_scales(model, 0.5)
    assert scales["head.weight"] == 1.0
    assert scales["blocks.0.norm1.weight"] < scales["blocks.3.norm1.weight"] < 1.0
    assert min(scales.values()) == scales["tokens_to_token.project.weight"] == 0.5 ** (len(model.layer_groups()) - 1)
    groups = build.optimizer_of(replace(CONFIG, layer_decay=0.5), model).param_groups
    of_head = next(group for group in groups if any(p is model.head.weight for p in group["params"]))
    assert (of_head["lr_scale"], min(group["lr_scale"] for group in groups)) == (1.0, min(scales.values()))


def test_loss() -> None:
    images = images_of(30, 10)
    assert build.loss_of(CONFIG, images, CPU) is cross_entropy
    assert build.loss_of(replace(CONFIG, class_balance="sampling"), images, CPU) is cross_entropy
    bce = build.loss_of(replace(CONFIG, loss="bce", bce_target_thresh=0.2), images, CPU)
    assert isinstance(bce, BinaryCrossEntropy) and bce.threshold == 0.2
    loss = build.loss_of(replace(CONFIG, class_balance="weights"), images, CPU)
    assert isinstance(loss, WeightedCrossEntropy)
    assert loss.weights.tolist() == pytest.approx([40 / (2 * 30), 40 / (2 * 10)])  # the rare class weighs more
    assert loss.label_smoothing == 0.39


def test_schedule() -> None:
    made = build.schedule_of(CONFIG, State(updates_per_epoch=17, epochs=15, last_step=200))
    assert made == Schedule("exp_lr", 0.01, 13, 17, 0.002, 0.0003, 3.0, 11, 0.93)
    config = replace(CONFIG, lr_scheduler="wsd_lr", lr_decay_share=0.3, lr_decay_shape="linear")
    made = build.schedule_of(config, State(updates_per_epoch=17, epochs=15, last_step=200))
    assert made == Schedule("wsd_lr", 0.01, 13, 17, 0.002, 0.0003, 3.0, 11, 0.93, 0.3, "linear")


@pytest.mark.parametrize(
    ("level", "keys", "scale", "dynamic"),
    [
        ("O1", {}, 64.0, True),
        ("O2", {"is_dynamic_loss_scale": False}, 64.0, False),
        ("bf16", {}, 1.0, False),
        ("O0", {}, 1.0, False),
    ],
)
def test_what_a_step_changes(level: str, keys: dict[str, Any], scale: float, dynamic: bool) -> None:
    model = fresh(3, 0)
    trained = build.trained_of(replace(CONFIG, **keys), model, choose_precision(level, CPU, training=True))
    assert trained.model is model
    assert (trained.scaler.scale.item(), trained.scaler.dynamic) == (scale, dynamic)
    assert trained.ema is not None and trained.ema.decay == 0.77
    assert build.trained_of(replace(CONFIG, with_ema=False), model, Precision("O0", CPU)).ema is None


def test_average_of_epochs() -> None:
    model, config = fresh(3, 0), replace(CONFIG, with_ema=False, epochs=10, cooldown_epochs=2, average_share=0.25)
    assert build.average_of(config, model) is None
    last = build.average_of(replace(config, model_average="last_k", average_epochs=7), model)
    running = build.average_of(replace(config, model_average="swa"), model)
    one = build.average_of(replace(config, model_average="swa", average_share=0.01), model)
    assert last is not None and running is not None and one is not None
    # Epochs of the cooldown are epochs of the run: 3 of 12, from number 10 on.
    assert (last._last, running._last, running.first_epoch, one.first_epoch) == (7, 0, 10, 12)
    trained = build.trained_of(replace(config, model_average="swa"), model, Precision("O0", CPU))
    assert trained.average is not None and trained.ema is None


def test_images_of_other_sizes() -> None:
    config = replace(CONFIG, crop_schedule="96x40:0.5,32x64:1.0")
    assert build.largest_transform(config) == replace(build.train_transform(config), image_size=(96, 64))
    assert build.largest_transform(CONFIG) == build.train_transform(CONFIG)
    assert build.network(config, 3).other_sizes == "resize"
    assert build.network(CONFIG, 3).other_sizes is None


def test_training_step(monkeypatch: pytest.MonkeyPatch) -> None:
    model, images, precision = fresh(3, 0), images_of(2, 1, 1), choose_precision("bf16", CPU, training=True)
    trained = build.trained_of(CONFIG, model, precision)
    monkeypatch.setattr(build, "share_gradients", lambda network, *_: network)
    step = build.step_of(CONFIG, trained, images, precision, SECOND_OF_TWO, print)
    assert step.model is model
    assert (step.optimizer, step.scaler, step.ema) == (trained.optimizer, trained.scaler, trained.ema)
    assert (step.accumulation, step.clip_norm, step.copy, step.loss) == (4, 2.5, None, cross_entropy)
    assert (step.numbers.seed, step.numbers.rank) == (7, 1)  # type: ignore[union-attr]
    with step.autocast():
        assert torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") is torch.bfloat16
    unclipped = build.step_of(
        replace(CONFIG, use_clip_grad_norm=False, class_balance="weights"),
        trained,
        images,
        precision,
        Processes(),
        print,
    )
    assert unclipped.clip_norm is None
    assert isinstance(unclipped.loss, WeightedCrossEntropy)


def test_half_weights_train_in_a_copy() -> None:
    model, precision = fresh(3, 0), choose_precision("O2", CPU, training=True)
    trained = build.trained_of(CONFIG, model, precision)
    step = build.step_of(CONFIG, trained, images_of(2, 1, 1), precision, Processes(), print)
    assert step.copy is not None and step.model is step.copy.module
    assert (step.model.head.weight.dtype, model.head.weight.dtype) == (torch.float16, torch.float32)  # type: ignore[union-attr]


@pytest.mark.parametrize(("eager", "compiled"), [(True, 0), (False, 1)])
def test_a_graph_is_compiled_unless_eager_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, eager: bool, compiled: int
) -> None:
    calls: list[object] = []
    monkeypatch.setattr(build, "compile_for_training", lambda model, *_: calls.append(model) or model)
    config, model = replace(CONFIG, pynative_mode=eager), fresh(3, 0)
    trained = build.trained_of(config, model, Precision("O0", CPU))
    build.step_of(config, trained, images_of(2, 1, 1), Precision("O0", CPU), Processes(), print)
    assert calls == [model] * compiled


def test_some_images_are_spread_evenly() -> None:
    assert list(build.some_images(images_of(10), 4)) == [0, 2, 4, 6]
    assert list(build.some_images(images_of(3), 4)) == [0, 1, 2]
    taken = images_of(50, 50).targets[list(build.some_images(images_of(50, 50), 10))]
    assert Counter(taken.tolist()) == {0: 5, 1: 5}


def fresh(classes: int, seed: int) -> T2TViT:
    torch.manual_seed(seed)
    return create_model("t2t_vit_quickstart", num_classes=classes, image_size=28)


@pytest.fixture
def weights() -> Weights:
    model = fresh(3, 0)
    with torch.no_grad():
        model.head.bias.copy_(torch.arange(3.0) + 1)
    return Weights(Path("w.ckpt"), model.state_dict(), classes=("cat", "dog", "eel"))


def test_the_same_classes_keep_the_head(weights: Weights) -> None:
    model = fresh(3, 1)
    (told,) = build.start_from(model, weights, ("cat", "dog", "eel"))
    assert "newly" not in told
    assert all(torch.equal(tensor, weights.tensors[name]) for name, tensor in model.state_dict().items())


def test_other_classes_of_the_same_number_get_a_new_head(weights: Weights) -> None:
    model, other = fresh(3, 1), fresh(3, 1)
    told = build.start_from(model, weights, ("ant", "bee", "fly"))
    assert told[1] == "the head is new: ant, bee, fly"
    assert torch.equal(model.head.weight, other.head.weight)
    assert torch.equal(model.cls_token, weights.tensors["cls_token"])


def test_classes_that_are_there_again_keep_their_rows(weights: Weights) -> None:
    model, other = fresh(4, 1), fresh(4, 1)
    told = build.start_from(model, weights, ("ant", "cat", "eel", "fly"))
    assert told[1] == "the head keeps 2 of its 3 classes and is new for ant, fly"
    assert model.head.bias.tolist() == [0.0, 1.0, 3.0, 0.0]
    assert torch.equal(model.head.weight[[1, 2]], weights.tensors["head.weight"][[0, 2]])
    assert torch.equal(model.head.weight[[0, 3]], other.head.weight[[0, 3]])


def test_a_head_without_names_is_kept_where_the_counts_agree(weights: Weights) -> None:
    nameless = replace(weights, classes=None)
    model = fresh(3, 1)
    build.start_from(model, nameless, ("ant", "bee", "fly"))
    assert model.head.bias.tolist() == [1.0, 2.0, 3.0]
    (told,) = build.start_from(fresh(2, 1), nameless, ("ant", "bee"))
    assert "head.weight, head.bias newly initialised" in told
