"""The schema: no key missing, defaults and headings as specified, values checked."""

import dataclasses

import pytest

from t2t_vit.errors import UserError
from t2t_vit.settings.schema import KEYS, SECTIONS, Config, checked

SPECIFIED = {
    "Dataset": "dataset data_url train_dir val_dir train_num_samples val_num_samples val_split class_balance",
    "Augmentations": "auto_augment aa_interpolation re_mode re_prob re_count cutmix mixup mixup_prob mixup_mode "
    "mixup_off_epoch switch_prob label_smoothing min_crop crop_pct train_interpolation hflip color_jitter mean std",
    "Optimizer": "optimizer beta eps base_lr min_lr lr_scheduler lr_adjust lr_gamma momentum weight_decay layer_decay",
    "Network training config": "epochs batch_size accumulation_step is_dynamic_loss_scale loss_scale "
    "num_parallel_workers cache start_epoch warmup_length warmup_lr use_clip_grad_norm clip_grad_norm "
    "exclude_epoch_state seed with_ema ema_decay pynative_mode dataset_sink_mode resume max_steps eval_every_epochs "
    "cooldown_epochs skipped_steps_limit",
    "Model arguments": "arch amp_level file_format pretrained image_size num_classes drop drop_block drop_path "
    "disable_approximate_gelu in_chans performer_drop freeze",
    "Hardware setup": "device_id device_num device_target runtime kernels",
    "Callbacks setup": "summary_root_dir ckpt_root_dir best_ckpt_root_dir logs_root_dir ckpt_keep_num best_ckpt_num "
    "ckpt_save_every_step ckpt_save_every_seconds print_loss_every summary_loss_collect_freq model_postfix "
    "collect_input_data dump_graph tracker",
}


def test_every_specified_key_exists_in_its_section() -> None:
    assert {title: " ".join(names) for title, names in SECTIONS.items()} == SPECIFIED
    assert list(KEYS) == " ".join(SPECIFIED.values()).split()


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
