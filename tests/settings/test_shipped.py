"""The shipped configurations: each parses, its keys are right, its header tells what it must."""

import shlex

import pytest

from t2t_vit.assembly.scratch import OF_ANY_SIZE
from t2t_vit.settings.command_line import parse
from t2t_vit.settings.file import SHIPPED, find_config, read_config, shipped_configs
from t2t_vit.settings.resolution import resolve
from t2t_vit.settings.schema import KEYS, Config
from t2t_vit.variants import VARIANTS

OF_PAGE = ("t2t_vit_19", "t2t_vit_t_14")
OURS = ("t2t_vit_s_6_cifar10", "t2t_vit_s_6_fashion_mnist")  # their headers have what we measured
TRANSFERS = ("finetune", "finetune_384")  # they name no network: the weights do


def test_all_recipes_are_there() -> None:
    expected = {
        "quickstart",
        "scratch",
        "t2t_vit_19_authors",
        "t2t_vit_t_14_authors",
        "t2t_vit_19_cifar",
        *OF_PAGE,
        *OURS,
        *TRANSFERS,
    }
    assert expected | {f"t2t_vit_{depth}" for depth in ("7", "10", "12", "14", "24", "t_19", "t_24")} <= set(
        shipped_configs()
    )


@pytest.mark.parametrize("name", shipped_configs())
def test_a_recipe_is_whole(name: str) -> None:
    config, notes = resolve(parse("train", [name, *(["--pretrained", "w.ckpt"] if name in TRANSFERS else [])]))
    assert notes == []
    assert config.arch in VARIANTS
    assert name.startswith((config.arch, "quickstart", "scratch", *TRANSFERS))
    header = [line for line in find_config(name).read_text().splitlines() if line.startswith("# ")]
    assert all(any(line.startswith(f"# {word}") for line in header) for word in ("Command:", "Hardware:", "Source:"))
    claim = "Measured:" if name in OURS else "Published, not ours:"
    assert name in ("quickstart", "scratch", "finetune") or any(claim in line for line in header)


@pytest.mark.parametrize("name", shipped_configs())
def test_the_command_of_a_header_starts_its_recipe(name: str) -> None:
    (line,) = [line for line in find_config(name).read_text().splitlines() if line.startswith("# Command:")]
    words = shlex.split(line.removeprefix("# Command:"))
    words = words[1:] if words[0].startswith("OMP_NUM_THREADS=") else words
    if words[0] == "t2t-vit":
        command, options = words[1], words[2:]
    else:
        assert [words[0], *words[2:5:2]] == ["scripts/run_distribute_train_gpu.sh", "--num_devices", "--extra"]
        command, options = "train", [words[1], *words[5:]]
    parsed = parse(command, options)
    resolve(parsed)
    assert command == name == "quickstart" or parsed.path == find_config(name)


@pytest.mark.parametrize("name", OF_PAGE)
def test_the_pages_recipes_are_in_full_and_hold_its_values(name: str) -> None:
    values = read_config(find_config(name))
    ours = "train_interpolation hflip color_jitter mean std accumulation_step resume max_steps eval_every_epochs "
    ours += "cooldown_epochs in_chans performer_drop val_split class_balance layer_decay skipped_steps_limit freeze "
    ours += "tracker cache runtime kernels split_seed val_seed bad_images patience max_hours best_by max_pixels "
    ours += "exported_seconds exported_memory lr_decay_share lr_decay_shape model_average average_epochs average_share "
    ours += "crop_schedule loss bce_target_thresh repeated_augment "
    ours += "teacher distill distill_weight distill_temperature mix_token"
    assert set(values) == set(KEYS) - set(ours.split())
    differing = {key for key, value in values.items() if value != getattr(Config(), key)} - {"arch"}
    assert differing == {"disable_approximate_gelu", "num_classes", "data_url"}
    assert (values["disable_approximate_gelu"], values["num_classes"], values["arch"]) == (False, 1000, name)


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in shipped_configs()
        if name not in (*OF_PAGE, *OURS, *TRANSFERS, "quickstart", "scratch", "t2t_vit_19_cifar")
    ],
)
def test_the_authors_recipes(name: str) -> None:
    config, _ = resolve(parse("train", [name]))
    lite = config.arch in ("t2t_vit_7", "t2t_vit_10", "t2t_vit_12")
    decay = 0.03 if lite else 0.05 if config.arch in ("t2t_vit_14", "t2t_vit_t_14") else 0.065
    assert (config.base_lr, config.weight_decay) == (1e-3 if lite else 5e-4, decay)
    assert (config.epochs, config.cooldown_epochs, config.warmup_length, config.warmup_lr) == (300, 10, 10.0, 1e-6)
    assert (config.batch_size, config.with_ema, config.ema_decay) == (64, True, 0.99996)
    assert not config.use_clip_grad_norm
    assert f"{VARIANTS[config.arch].published_top1} % top-1" in find_config(name).read_text()


@pytest.mark.parametrize("name", TRANSFERS)
def test_a_transfer_takes_the_network_from_the_weights(name: str) -> None:
    options = parse("train", [name, "--pretrained", "w.ckpt"])
    config, notes = resolve(options, {"arch": "t2t_vit_14", "image_size": 320, "num_classes": 7})
    assert (config.arch, config.num_classes) == ("t2t_vit_14", 0)
    assert config.image_size == (320 if name == "finetune" else 384)
    assert "arch t2t_vit_14" in notes[0]
    assert config.run_name != "t2t_vit_14"  # its checkpoints must not displace those of the run that it starts from


def test_a_transfer_without_weights_is_remarked_upon() -> None:
    _, notes = resolve(parse("train", ["finetune"]))
    assert len(notes) == 1
    assert "give them with pretrained" in notes[0]


def test_the_checkouts_link_leads_to_the_shipped_ones() -> None:
    link = SHIPPED.parents[1] / "configs"
    if not link.exists():
        pytest.skip("installed without a checkout")
    assert link.resolve() == SHIPPED.resolve()


def test_only_recipes_of_hundreds_of_epochs_are_said_to_be_for_imagenet_on_gpus() -> None:
    weights = {name: ["--pretrained", "w.ckpt"] for name in TRANSFERS}
    epochs = {name: resolve(parse("train", [name, *weights.get(name, [])]))[0].epochs for name in shipped_configs()}
    long = {name for name, count in epochs.items() if count >= 300}
    assert long == set(shipped_configs()) - set(OF_ANY_SIZE)
