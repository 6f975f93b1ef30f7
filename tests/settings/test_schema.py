"""The schema: no key missing, defaults and headings as specified, values checked."""

import dataclasses

import pytest

from t2t_vit.errors import UserError
from t2t_vit.settings.schema import KEYS, SECTIONS, Config, checked

SPECIFIED = {
    "Dataset": "dataset data_url train_dir val_dir train_num_samples val_num_samples val_split split_seed "
    "val_seed bad_images max_pixels class_balance",
    "Augmentations": "auto_augment aa_interpolation repeated_augment re_mode re_prob re_count cutmix mix_token mixup "
    "mixup_prob mixup_mode mixup_off_epoch switch_prob label_smoothing min_crop crop_pct train_interpolation "
    "crop_schedule hflip color_jitter mean std",
    "Optimizer": "optimizer beta eps base_lr min_lr lr_scheduler lr_adjust lr_gamma lr_decay_share lr_decay_shape "
    "momentum weight_decay layer_decay",
    "Network training config": "epochs batch_size accumulation_step is_dynamic_loss_scale loss_scale "
    "num_parallel_workers cache start_epoch warmup_length warmup_lr use_clip_grad_norm clip_grad_norm "
    "loss bce_target_thresh "
    "exclude_epoch_state seed with_ema ema_decay model_average average_epochs average_share pynative_mode "
    "dataset_sink_mode patience max_hours best_by resume teacher distill distill_weight distill_temperature "
    "max_steps eval_every_epochs cooldown_epochs skipped_steps_limit",
    "Model arguments": "arch amp_level file_format pretrained image_size num_classes drop drop_block drop_path "
    "disable_approximate_gelu in_chans performer_drop freeze",
    "Hardware setup": "device_id device_num device_target runtime exported_seconds exported_memory kernels",
    "Callbacks setup": "summary_root_dir ckpt_root_dir best_ckpt_root_dir logs_root_dir ckpt_keep_num best_ckpt_num "
    "ckpt_save_every_step ckpt_save_every_seconds print_loss_every summary_loss_collect_freq model_postfix "
    "collect_input_data dump_graph tracker",
}


def test_every_specified_key_exists_in_its_section() -> None:
    assert {title: " ".join(names) for title, names in SECTIONS.items()} == SPECIFIED
    assert list(KEYS) == " ".join(SPECIFIED.values()).split()


DEFAULTS = Config(
    dataset="ImageNet", data_url="", train_dir="train", val_dir="validation_preprocess", train_num_samples=-1,
    val_num_samples=-1, val_split=0.0, split_seed=0, val_seed=-1, bad_images="skip", max_pixels=0,
    class_balance="none",
    auto_augment="rand-m9-mstd0.5-inc1", aa_interpolation="bilinear", repeated_augment=1, re_mode="pixel",
    re_prob=0.25, re_count=1,
    cutmix=1.0, mix_token=0.0, mixup=0.8, mixup_prob=1.0, mixup_mode="batch", mixup_off_epoch=0.0, switch_prob=0.5,
    label_smoothing=0.1, min_crop=0.08, crop_pct=0.9, train_interpolation="random", crop_schedule="", hflip=0.5,
    color_jitter=0.4,
    mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225),
    optimizer="adamw", beta=(0.9, 0.999), eps=1e-08, base_lr=0.001, min_lr=1e-05, lr_scheduler="cosine_lr",
    lr_adjust=30, lr_gamma=0.97, lr_decay_share=0.2, lr_decay_shape="sqrt", momentum=0.9,
    weight_decay=0.05, layer_decay=1.0,
    epochs=300, batch_size=100, accumulation_step=1, is_dynamic_loss_scale=True, loss_scale=1024.0,
    num_parallel_workers=8, cache="auto", start_epoch=0, warmup_length=2.0, warmup_lr=7e-06,
    use_clip_grad_norm=True, clip_grad_norm=1.0, loss="ce", bce_target_thresh=0.0,
    exclude_epoch_state=True, seed=0, with_ema=False, ema_decay=0.9999,
    model_average="none", average_epochs=5, average_share=0.25,
    pynative_mode=False, dataset_sink_mode=True, patience=0, max_hours=0.0, best_by="top1", resume="",
    teacher="", distill="none", distill_weight=0.5, distill_temperature=1.0,
    max_steps=0, eval_every_epochs=1,
    cooldown_epochs=0, skipped_steps_limit=20,
    arch="t2t_vit_19", amp_level="O0", file_format="MINDIR", pretrained="", image_size=224, num_classes=0,
    drop=0.0, drop_block=0.0, drop_path=0.1, disable_approximate_gelu=True, in_chans=3, performer_drop=0.1,
    freeze="",
    device_id=0, device_num=1, device_target="auto", runtime="auto", exported_seconds=300.0,
    exported_memory=8.0, kernels="auto",
    summary_root_dir="runs/summary", ckpt_root_dir="runs/checkpoints",
    best_ckpt_root_dir="runs/best_checkpoints", logs_root_dir="runs/logs", ckpt_keep_num=10, best_ckpt_num=5,
    ckpt_save_every_step=0, ckpt_save_every_seconds=1800, print_loss_every=100, summary_loss_collect_freq=20,
    model_postfix="0", collect_input_data=False, dump_graph=False, tracker="none",
)  # fmt: skip


def test_defaults() -> None:
    """Changing a default changes what every configuration means that leaves the key out."""
    assert Config() == DEFAULTS


def test_defaults_that_differ_from_the_page() -> None:
    config = Config()
    assert (config.device_target, config.disable_approximate_gelu, config.num_classes, config.data_url) == (
        "auto",
        True,
        0,
        "",
    )
    folders = [config.summary_root_dir, config.ckpt_root_dir, config.best_ckpt_root_dir, config.logs_root_dir]
    assert all(folder.startswith("runs/") for folder in folders)
    assert len(set(folders)) == 4


@pytest.mark.parametrize("name", KEYS)
def test_every_key_has_a_meaning_and_allows_its_default(name: str) -> None:
    assert KEYS[name].meaning
    assert KEYS[name].words
    assert checked(name, getattr(Config(), name)) == getattr(Config(), name)


def test_dictionaries_go_there_and_back() -> None:
    config = Config(image_size=(96, 160), beta=(0.8, 0.9), mean=(0.5,), with_ema=True)
    values = config.to_dict()
    assert values["image_size"] == [96, 160]
    assert all(type(value) in (int, float, bool, str, list) for value in values.values())
    assert Config.from_dict(values) == config
    assert Config.from_dict({"epochs": 3, "drop": 0}) == dataclasses.replace(Config(), epochs=3)
    assert type(Config.from_dict({"drop": 0}).drop) is float  # of whole numbers, too
    assert Config.from_dict({"mean": 1}).mean == (1.0,)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"epoch": 3}, "unknown key 'epoch'; did you mean 'epochs'?"),
        ({"epochs": 3.0}, "epochs takes a whole number of at least 1; not '3.0'"),
        ({"epochs": True}, "epochs takes a whole number"),
        ({"drop": float("nan")}, "drop takes a number of at least 0 and below 1; not 'nan'"),
        ({"with_ema": 1}, "with_ema takes True or False; not '1'"),
        ({"arch": None}, "arch takes one of"),
        ({"beta": [0.9]}, r"beta takes two numbers .*; not '\[0.9\]'"),
        ({"mean": []}, "mean takes one or more numbers"),
        ({"image_size": [1, 2, 3]}, "image_size takes one or two whole numbers"),
        ({"epochs": [3]}, "epochs takes a whole number"),
    ],
)
def test_wrong_values_are_told(values: dict[str, object], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Config.from_dict(values)


def test_a_config_is_immutable_and_names_its_run() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().epochs = 3  # type: ignore[misc]
    assert Config(arch="t2t_vit_7").run_name == "t2t_vit_7"
    assert Config(arch="t2t_vit_7", model_postfix="_b").run_name == "t2t_vit_7_b"


@pytest.mark.parametrize("policy", ["augmix-a0", "augmix-m5-w4-a0.00", "augmix-a0-w4"])
def test_augmix_needs_a_positive_alpha(policy: str) -> None:
    with pytest.raises(UserError, match="auto_augment takes"):
        checked("auto_augment", policy)
    assert checked("auto_augment", "augmix-m5-w4-a0.5-d1") == "augmix-m5-w4-a0.5-d1"
