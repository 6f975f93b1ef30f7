"""Keys beside each other: what cannot be, what has no effect, what is rarely meant."""

import dataclasses
from typing import Any

import pytest

from t2t_vit.errors import UserError
from t2t_vit.settings.rules import (
    INACTIVE,
    crop_phases,
    fit_channels,
    inactive_keys,
    largest_size_of,
    remarks,
    validate,
    validate_training,
)
from t2t_vit.settings.schema import KEYS, Config


def test_the_defaults_are_valid_and_nothing_of_them_is_told() -> None:
    validate(Config())
    validate_training(Config())
    assert inactive_keys(Config()) == []
    assert remarks(Config()) == []


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"epochs": 0}, "epochs takes"),
        ({"mean": (0.5,) * 40_000}, r"mean \[0.5(, 0.5){15}, ... \(40,000 values\)\] does not fit in_chans 3"),
        ({"mean": (0.1, 0.2)}, r"mean \[0.1, 0.2\] does not fit in_chans 3"),
        ({"in_chans": 1, "std": (0.1, 0.2, 0.3)}, "mean .* does not fit in_chans 1"),
    ],
)
def test_what_cannot_be(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        validate(Config(**values))


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"amp_level": "O3"}, "O3 is for inference only"),
        (
            {"crop_schedule": "96:0.6,128:0.6"},
            "crop_schedule 96:0.6,128:0.6: the shares must rise",
        ),
        ({"crop_schedule": "96:0.6,128:0.9"}, "must rise, and the last one must be 1.0, as in 96:0.6,128:1.0"),
        ({"crop_schedule": "128:1,96:0.5"}, "the shares must rise"),
        ({"crop_schedule": "4:0.5,128:1"}, "crop_schedule 4:0.5,128:1: sides have at least 8 and at most 8192 pixels"),
        ({"crop_schedule": "128x9999:1"}, "at least 8 and at most 8192"),
        ({"loss": "bce", "class_balance": "weights"}, "choose class_balance sampling, or loss ce"),
        ({"loss": "bce", "bce_target_thresh": 0.2}, "undoes label_smoothing 0.1; set one of the two to 0"),
        ({"repeated_augment": 3, "class_balance": "sampling"}, "choose class_balance weights, or repeated_augment 1"),
        ({"with_ema": True, "model_average": "swa"}, "with_ema True and model_average swa are two averages"),
        ({"start_epoch": 5, "epochs": 5}, "start_epoch 5 leaves nothing to train: epochs is 5"),
        ({"start_epoch": 6, "epochs": 5, "cooldown_epochs": 1}, "start_epoch 6 leaves nothing to train"),
        ({"start_epoch": 5, "resume": "b.ckpt"}, "start_epoch 5 contradicts a continued run"),
        ({"start_epoch": 5, "pretrained": "a.ckpt", "exclude_epoch_state": False}, "start_epoch 5 contradicts"),
        ({"resume": "b.ckpt", "pretrained": "a.ckpt", "exclude_epoch_state": False}, "both name a run to continue"),
    ],
)
def test_what_training_refuses(values: dict[str, Any], sentence: str) -> None:
    validate(Config(**values))
    with pytest.raises(UserError, match=sentence):
        validate_training(Config(**values))


def test_a_run_that_may_be_continued_may_begin_later() -> None:
    validate_training(Config(start_epoch=5, resume="auto"))  # told apart when it is known whether there is one
    validate_training(Config(pretrained="a.ckpt", exclude_epoch_state=False))


def test_a_start_within_the_cooldown_is_allowed() -> None:
    validate_training(Config(start_epoch=5, epochs=5, cooldown_epochs=1))


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"re_prob": 0.0, "re_count": 3}, "re_count (re_prob is 0)"),
        ({"re_prob": 0.0, "re_mode": "const"}, "re_mode (re_prob is 0)"),
        ({"auto_augment": "", "aa_interpolation": "bicubic"}, "aa_interpolation (auto_augment is off)"),
        ({"color_jitter": 0.3}, "color_jitter (auto_augment takes its place)"),
        ({"cutmix": 0.0, "mixup": 0.0, "switch_prob": 0.3}, "switch_prob (cutmix and mixup are 0)"),
        ({"cutmix": 0.0, "mixup": 0.0, "mixup_mode": "elem"}, "mixup_mode (cutmix and mixup are 0)"),
        ({"mixup_prob": 0.0, "cutmix": 0.5}, "cutmix (mixup_prob is 0)"),
        ({"cutmix": 0.0, "switch_prob": 0.3}, "switch_prob (only one of cutmix and mixup is on)"),
        ({"mixup_off_epoch": 300.0}, "mixup_off_epoch (the run ends before it)"),
        ({"optimizer": "sgd", "beta": (0.8, 0.9)}, "beta (optimizer is sgd)"),
        ({"optimizer": "momentum", "eps": 1e-6}, "eps (optimizer is momentum)"),
        ({"momentum": 0.8}, "momentum (optimizer is adamw)"),
        ({"lr_gamma": 0.5}, "lr_gamma (lr_scheduler is cosine_lr)"),
        ({"lr_adjust": 3, "lr_scheduler": "exp_lr"}, "lr_adjust (lr_scheduler is exp_lr)"),
        ({"min_lr": 1e-6, "lr_scheduler": "constant_lr"}, "min_lr (lr_scheduler is constant_lr)"),
        ({"lr_decay_share": 0.3}, "lr_decay_share (lr_scheduler is cosine_lr)"),
        ({"lr_decay_shape": "linear", "lr_scheduler": "exp_lr"}, "lr_decay_shape (lr_scheduler is exp_lr)"),
        ({"warmup_length": 0.0, "warmup_lr": 1e-6}, "warmup_lr (warmup_length is 0)"),
        ({"use_clip_grad_norm": False, "clip_grad_norm": 2.0}, "clip_grad_norm (use_clip_grad_norm is False)"),
        ({"ema_decay": 0.99}, "ema_decay (with_ema is False)"),
        ({"bce_target_thresh": 0.2}, "bce_target_thresh (loss is ce)"),
        (
            {"bce_target_thresh": 0.2, "loss": "bce", "mixup": 0.0, "cutmix": 0.0},
            "bce_target_thresh (nothing is mixed)",
        ),
        ({"average_epochs": 3}, "average_epochs (model_average is none)"),
        ({"average_epochs": 3, "model_average": "swa"}, "average_epochs (model_average is swa)"),
        ({"average_share": 0.5, "model_average": "last_k"}, "average_share (model_average is last_k)"),
        ({"loss_scale": 2.0}, "loss_scale (amp_level is O0)"),
        ({"is_dynamic_loss_scale": False, "amp_level": "bf16"}, "is_dynamic_loss_scale (amp_level is bf16)"),
        ({"exclude_epoch_state": False}, "exclude_epoch_state (pretrained is empty)"),
        ({"dataset": "FashionMNIST", "val_dir": "v"}, "val_dir (dataset is FashionMNIST)"),
        ({"arch": "t2t_vit_t_14", "performer_drop": 0.2}, "performer_drop (t2t_vit_t_14 has no performer)"),
        ({"dataset": "CIFAR10", "val_split": 0.1}, "val_split (dataset is CIFAR10)"),
        ({"freeze": "backbone", "layer_decay": 0.7}, "layer_decay (freeze is backbone: only the head is trained)"),
        ({"freeze": "backbone", "drop_path": 0.2}, "drop_path (freeze is backbone: only the head is trained)"),
        ({"freeze": "tokens", "performer_drop": 0.2}, "performer_drop (freeze is tokens)"),
        ({"freeze": "3", "drop_block": 0.2}, "drop_block (freeze is 3)"),
        ({"epochs": 1, "cache": "off"}, "cache (a single epoch reads nothing twice)"),
        ({"dataset": "CIFAR10", "cache": "off"}, "cache (dataset is CIFAR10)"),
        ({"optimizer": "nadamw", "momentum": 0.8}, "momentum (optimizer is nadamw)"),
        ({"optimizer": "lion", "momentum": 0.8}, "momentum (optimizer is lion)"),
        ({"cutmix": 0.0, "mixup": 0.0, "mixup_prob": 0.3}, "mixup_prob (cutmix and mixup are 0)"),
        ({"cutmix": 0.0, "mixup": 0.0, "mixup_off_epoch": 3.0}, "mixup_off_epoch (cutmix and mixup are 0)"),
        ({"mixup_prob": 0.0, "mixup_mode": "elem"}, "mixup_mode (mixup_prob is 0)"),
        ({"mixup": 0.0, "switch_prob": 0.3}, "switch_prob (only one of cutmix and mixup is on)"),
        ({"device_target": "CPU", "device_id": 1}, "device_id (the device is the CPU)"),
        ({"device_target": "CPU", "dataset_sink_mode": False}, "dataset_sink_mode (the device is the CPU)"),
        ({"device_num": 2, "device_id": 1}, "device_id (each of the device_num 2 processes takes its own device)"),
    ],
)
def test_keys_without_effect_are_named(values: dict[str, Any], line: str) -> None:
    assert inactive_keys(Config(**values)) == [line]


@pytest.mark.parametrize(
    "values",
    [
        {"re_count": 3},
        {"color_jitter": 0.3, "auto_augment": "3a"},
        {"color_jitter": 0.3, "auto_augment": ""},
        {"lr_gamma": 0.5, "lr_scheduler": "exp_lr"},
        {"lr_gamma": 0.5, "lr_adjust": 3, "lr_scheduler": "multistep_lr"},
        {"momentum": 0.8, "optimizer": "sgd"},
        {"ema_decay": 0.99, "with_ema": True},
        {"bce_target_thresh": 0.2, "loss": "bce"},
        {"average_epochs": 3, "model_average": "last_k"},
        {"average_share": 0.5, "model_average": "swa"},
        *({"loss_scale": 2.0, "is_dynamic_loss_scale": False, "amp_level": level} for level in ("O1", "O2", "auto")),
        {"mixup_off_epoch": 299.0},
        {"switch_prob": 0.3},
        {"epochs": 2, "cache": "off"},
        {"epochs": 1, "cooldown_epochs": 1, "cache": "off"},
        {"kernels": "reference"},
        {"arch": "t2t_vit_c_14", "kernels": "cpu"},
        {"min_lr": 1e-6, "lr_scheduler": "constant_lr", "cooldown_epochs": 1},
        {"device_num": 2},
        {"beta": (0.8, 0.9), "eps": 1e-6, "optimizer": "lamb"},
        {"momentum": 0.8, "optimizer": "rmsprop"},
        {"performer_drop": 0.2},
        {"freeze": "2", "layer_decay": 0.7, "drop_path": 0.2},
        {"val_split": 0.1},
        {"min_lr": 0.1, "base_lr": 0.01, "lr_scheduler": "constant_lr"},
        {"lr_decay_share": 0.3, "lr_decay_shape": "linear", "min_lr": 1e-6, "lr_scheduler": "wsd_lr"},
        {"exclude_epoch_state": False, "pretrained": "a.ckpt"},
    ],
)
def test_keys_with_effect_are_not(values: dict[str, Any]) -> None:
    assert inactive_keys(Config(**values), given=set(values)) == []


def test_a_default_is_named_only_when_it_was_given() -> None:
    config = Config(re_prob=0.0)
    assert inactive_keys(config) == []
    assert inactive_keys(config, given={"re_count"}) == ["re_count (re_prob is 0)"]


def test_every_rule_names_existing_keys() -> None:
    assert {name for rule in INACTIVE for name in rule.keys} <= KEYS.keys()


def test_remarks() -> None:
    assert "min_lr 0.1 is above base_lr 0.001" in remarks(Config(min_lr=0.1))[0]
    assert "warmup_length 9.0 is longer than the run" in remarks(Config(epochs=3, warmup_length=9.0))[0]
    assert remarks(Config(epochs=3, cooldown_epochs=6, warmup_length=9.0)) == []


@pytest.mark.parametrize("key", [{"layer_decay": 0.7}, {"freeze": "backbone"}])
def test_what_is_for_trained_weights_is_remarked_upon_without_them(key: dict[str, Any]) -> None:
    (remark,) = remarks(Config(**key))
    assert remark.startswith(next(iter(key)))
    assert remarks(Config(pretrained="a.ckpt", **key)) == remarks(Config(resume="auto", **key)) == []


def test_means_fit_the_channels() -> None:
    assert fit_channels(Config(in_chans=1), ()).mean == (0.449,)
    assert fit_channels(Config(in_chans=4), ()).std == (0.229, 0.224, 0.225, 0.5)
    assert fit_channels(Config(mean=(0.5,)), {"mean"}).mean == (0.5, 0.5, 0.5)
    assert fit_channels(Config(in_chans=1), {"mean"}).mean == Config().mean  # given so: for `validate` to refuse
    assert fit_channels(Config(), ()) == dataclasses.replace(Config())


def test_crop_phases() -> None:
    assert crop_phases(Config()) == ()
    assert crop_phases(Config(crop_schedule="96x64:0.6, 128:0.7,160:1", epochs=10)) == (
        ((96, 64), 6),
        ((128, 128), 7),
        ((160, 160), 10),
    )
    assert crop_phases(Config(crop_schedule="96:0.5,128:1.0", epochs=3))[0] == ((96, 96), 1)
    assert largest_size_of(Config(crop_schedule="96x320:0.6,256x128:1", image_size=(224, 192))) == (256, 320)
    assert largest_size_of(Config(image_size=64)) == (64, 64)


def test_a_last_size_that_is_not_that_of_evaluations_is_remarked() -> None:
    told = "crop_schedule 96:1 ends with another size than image_size 224, which evaluations use"
    assert told in remarks(Config(crop_schedule="96:1"))
    assert remarks(Config(crop_schedule="96:0.5,224:1")) == []


@pytest.mark.parametrize(
    ("values", "advice"),
    [
        ({"with_ema": True, "model_average": "swa"}, [{"with_ema": False}, {"model_average": "none"}]),
        ({"loss": "bce", "class_balance": "weights"}, [{"class_balance": "sampling"}, {"loss": "ce"}]),
        ({"loss": "bce", "bce_target_thresh": 0.2}, [{"label_smoothing": 0.0}, {"bce_target_thresh": 0.0}]),
        (
            {"repeated_augment": 3, "class_balance": "sampling"},
            [{"class_balance": "weights"}, {"repeated_augment": 1}],
        ),
        ({"crop_schedule": "96:1,128:0.6"}, [{"crop_schedule": "96:0.6,128:1.0"}]),
    ],
)
def test_what_is_advised_is_allowed(values: dict[str, Any], advice: list[dict[str, Any]]) -> None:
    with pytest.raises(UserError):
        validate_training(Config(**values))
    for change in advice:
        validate(Config(**values | change))
        validate_training(Config(**values | change))
