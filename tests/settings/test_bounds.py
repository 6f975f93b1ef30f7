"""The bounds of every key: what lies on a bound, just inside and just outside."""

import math

import pytest

from t2t_vit.errors import UserError
from t2t_vit.settings.schema import KEYS, checked
from t2t_vit.settings.values import LARGEST, Location, OneOf, Written

TINY, NEAR_ONE, HUGE = 1e-300, math.nextafter(1, 0), 1e300
ABOVE_ONE, BELOW_ZERO = math.nextafter(1, 2), -TINY

SHARE = ((0, TINY, 0.5, 1), (BELOW_ZERO, ABOVE_ONE))  # [0, 1]
BELOW_ONE = ((0, TINY, 0.5, NEAR_ONE), (BELOW_ZERO, 1, ABOVE_ONE))  # [0, 1)
SOME_SHARE = ((TINY, 0.5, 1), (0, BELOW_ZERO, ABOVE_ONE))  # (0, 1]
POSITIVE = ((TINY, 1, HUGE), (0, BELOW_ZERO))  # (0, inf)
OR_OFF = ((0, TINY, 1, HUGE), (BELOW_ZERO,))  # [0, inf)
OR_UNLIMITED = ((0, TINY, 1, 1e6), (BELOW_ZERO, 1.1e6))  # [0, 1e6]
COUNT = ((1, LARGEST), (0, -1, 1.5, LARGEST + 1))
COUNT_OR_OFF = ((0, 1, LARGEST), (-1, 0.5, LARGEST + 1))
ALL_OR_COUNT = ((-1, 1, LARGEST), (-2, 0, 1.5, LARGEST + 1))

NUMBERS = {
    "train_num_samples": ALL_OR_COUNT,
    "val_num_samples": ALL_OR_COUNT,
    "max_pixels": ((0, 1, 2**32), (-1, 1.5, 2**32 + 1)),
    "val_split": BELOW_ONE,
    "re_prob": SHARE,
    "repeated_augment": ((1, 100), (0, -1, 101, 1.5)),
    "re_count": ((1, 1000), (0, 1001, 1.5)),
    "cutmix": OR_OFF,
    "mix_token": OR_OFF,
    "mixup": OR_OFF,
    "mixup_prob": SHARE,
    "mixup_off_epoch": OR_OFF,
    "switch_prob": SHARE,
    "label_smoothing": BELOW_ONE,
    "min_crop": SOME_SHARE,
    "crop_pct": SOME_SHARE,
    "hflip": SHARE,
    "color_jitter": OR_OFF,
    "eps": POSITIVE,
    "base_lr": POSITIVE,
    "min_lr": OR_OFF,
    "lr_adjust": COUNT,
    "lr_gamma": SOME_SHARE,
    "lr_decay_share": SOME_SHARE,
    "momentum": BELOW_ONE,
    "weight_decay": OR_OFF,
    "layer_decay": SOME_SHARE,
    "epochs": COUNT,
    "batch_size": ((1, LARGEST, "auto"), (-1, 1.5, "Auto", "", LARGEST + 1)),  # 0 is auto, but nobody may write it
    "accumulation_step": COUNT,
    "loss_scale": ((TINY, 1, 1e38), (0, BELOW_ZERO, math.nextafter(1e38, 1e39))),
    "num_parallel_workers": COUNT_OR_OFF,
    "start_epoch": COUNT_OR_OFF,
    "warmup_length": OR_OFF,
    "warmup_lr": OR_OFF,
    "clip_grad_norm": POSITIVE,
    "bce_target_thresh": BELOW_ONE,
    "seed": COUNT_OR_OFF,
    "split_seed": COUNT_OR_OFF,
    "val_seed": ((-1, 0, 2**63 - 1), (-2, 2**63, 1.5)),  # -1: `seed` in words
    "ema_decay": BELOW_ONE,
    "average_epochs": ((2, 100), (1, 0, -1, 101, 2.5)),
    "average_share": SOME_SHARE,
    "distill_weight": SOME_SHARE,
    "distill_temperature": ((0.01, 1, 100), (0, 0.0099, 100.1)),
    "max_steps": COUNT_OR_OFF,
    "eval_every_epochs": COUNT_OR_OFF,
    "cooldown_epochs": COUNT_OR_OFF,
    "skipped_steps_limit": COUNT,
    "patience": COUNT_OR_OFF,
    "max_hours": OR_OFF,
    "exported_seconds": OR_UNLIMITED,
    "exported_memory": OR_UNLIMITED,
    "image_size": ((8, 8192, (8, 8192)), (7, 8193, (7, 8), (8, 8193), 8.5)),
    "num_classes": COUNT_OR_OFF,
    "drop": BELOW_ONE,
    "drop_block": BELOW_ONE,
    "drop_path": BELOW_ONE,
    "in_chans": ((1, 3, 4), (0, 2, 5)),
    "performer_drop": BELOW_ONE,
    "device_id": COUNT_OR_OFF,
    "device_num": COUNT,
    "ckpt_keep_num": COUNT,
    "best_ckpt_num": COUNT,
    "ckpt_save_every_step": COUNT_OR_OFF,
    "ckpt_save_every_seconds": COUNT_OR_OFF,
    "print_loss_every": COUNT,
    "summary_loss_collect_freq": COUNT,
}
LISTS = {"beta": (2, BELOW_ONE), "mean": (3, SHARE), "std": (3, POSITIVE)}
CHOICES = {
    "dataset": "ImageNet FashionMNIST CIFAR10 CIFAR100",
    "class_balance": "none weights sampling",
    "bad_images": "skip error",
    "aa_interpolation": "random bilinear bicubic nearest",
    "re_mode": "const rand pixel",
    "mixup_mode": "batch pair elem",
    "train_interpolation": "random bilinear bicubic nearest",
    "lr_scheduler": "cosine_lr multistep_lr exp_lr constant_lr wsd_lr",
    "lr_decay_shape": "sqrt linear",
    "loss": "ce bce",
    "model_average": "none last_k swa",
    "best_by": "top1 loss balanced_accuracy macro_f1",
    "distill": "none soft hard dense",
    "amp_level": "O0 O1 O2 O3 bf16 auto",
    "device_target": "auto GPU CPU MPS XPU Ascend",
    "runtime": "auto torch openvino onnxruntime",
    "kernels": "auto reference cpu native triton",
    "tracker": "none wandb mlflow",
    "file_format": "MINDIR ONNX AIR PT2 AOTI OPENVINO EXECUTORCH TENSORRT SAFETENSORS all",
}
TEXTS = {
    "crop_schedule": (
        (
            "",
            "96:1",
            "96:0.6, 128:1",
            "96:0.6,128:1.0",
            "96x64:.5,128:1",
            ",".join(f"{side}:0.{side}" for side in range(1, 7)),
        ),
        ("96", "96:0.6;128:1", "96:0.6 ,128:1", "096:1", "96:2", "96:1.5", "x:1", "96:0.6,", "9:1" + ",9:1" * 6),
    ),
    "cache": (("auto", "off", "4GiB", "1.5mb", "9KB"), ("", "1.5m", "4", "GiB", "-1G", "4 GiB", "on")),
    "optimizer": (("adamw", "lookahead_adam", "sgd"), ("", "AdamW", "1cycle", "adam w")),
    "freeze": (("", "tokens", "backbone", "1", "12"), ("0", "-1", "head", "01", "1.5")),
    "model_postfix": (("", "0", "_a.b-c+d=e"), ("a/b", "a b", "..\\", "\n")),
}
NOT_BOUNDED_HERE = {"arch", "auto_augment"}  # the table of variants; timm's grammar, see test_values.py


def test_every_key_is_bounded_here() -> None:
    plain = {name for name, key in KEYS.items() if key.kind is bool or isinstance(key.allowed, Location)}
    tables = [NUMBERS, LISTS, CHOICES, TEXTS, dict.fromkeys(plain), dict.fromkeys(NOT_BOUNDED_HERE)]
    named = [name for table in tables for name in table]
    assert sorted(named) == sorted(KEYS)
    assert {name for name, key in KEYS.items() if isinstance(key.allowed, OneOf)} == {*CHOICES, "in_chans", "arch"}
    assert {name for name, key in KEYS.items() if isinstance(key.allowed, Written)} == {*TEXTS, "auto_augment"}


def takes(name: str, value: object) -> bool:
    try:
        checked(name, value)
    except UserError as error:
        assert str(error).startswith(f"{name} takes ")
        return False
    return True


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers(name: str) -> None:
    allowed, refused = NUMBERS[name]
    assert [value for value in allowed if not takes(name, value)] == []
    assert [
        value for value in (*refused, math.nan, math.inf, -math.inf, 10**400, "1", True) if takes(name, value)
    ] == []


@pytest.mark.parametrize("name", LISTS)
def test_each_number_of_a_list(name: str) -> None:
    count, (allowed, refused) = LISTS[name]
    inside = [0.5] * count
    for place in range(count):
        for values, expected in ((allowed, True), ((*refused, math.nan), False)):
            for value in values:
                assert takes(name, [*inside[:place], value, *inside[place + 1 :]]) is expected, value


@pytest.mark.parametrize("name", CHOICES)
def test_choices(name: str) -> None:
    words = CHOICES[name].split()
    assert KEYS[name].allowed == OneOf(tuple(words))
    assert all(takes(name, word) for word in words)
    assert not any(takes(name, word) for word in ("", "other", words[0].swapcase(), None, 0))


@pytest.mark.parametrize("name", TEXTS)
def test_texts(name: str) -> None:
    allowed, refused = TEXTS[name]
    assert [text for text in allowed if not takes(name, text)] == []
    assert [text for text in (*refused, None, 1) if takes(name, text)] == []


def test_yes_or_no() -> None:
    for name in (name for name, key in KEYS.items() if key.kind is bool):
        assert takes(name, True) and takes(name, False)
        assert not any(takes(name, value) for value in (0, 1, "True", None))


def test_paths_hold_no_nul() -> None:
    for name in (name for name, key in KEYS.items() if isinstance(key.allowed, Location)):
        assert takes(name, "") and takes(name, "a b/é") and not takes(name, "a\0b")
