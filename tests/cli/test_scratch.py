"""`t2t-vit train scratch`: what is chosen for which images and machine, and a folder to a checkpoint and on."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import t2t_vit
from t2t_vit.assembly import scratch
from t2t_vit.assembly.scratch import Choice, Facts, Machine, choose, chosen_keys, look, prepared
from t2t_vit.settings.command_line import parse
from t2t_vit.settings.file import SHIPPED, find_config, read_config
from t2t_vit.settings.resolution import resolve
from t2t_vit.settings.schema import Config, checked

Run = Callable[..., tuple[int, str, str]]
FACTS = Facts(images=2_000, classes=10, side=300, grey=False)
CPU = Machine("cpu", cores=2, memory=2**34)
GPU = Machine("cuda", cores=16, memory=2**36)


def values(facts: Facts = FACTS, machine: Machine = CPU, **given: int) -> dict[str, object]:
    return {name: value for choice in choose(facts, machine, given) for name, value in choice.values.items()}


@pytest.mark.parametrize("images", [100, 2_000, 50_000])
@pytest.mark.parametrize("machine", [CPU, GPU, Machine("mps", 8, 2**33), Machine("cpu", 64, 2**38, processes=4)])
@pytest.mark.parametrize("side", [0, 28, 64, 400])
def test_every_choice_is_a_value_of_its_key_and_has_a_reason(images: int, machine: Machine, side: int) -> None:
    for choice in choose(Facts(images, 2, side, grey=side == 28), machine):
        assert len(choice.reason) > 10
        for name, value in choice.values.items():
            assert checked(name, value) == value
            assert name in chosen_keys()


def test_the_shipped_file_has_a_value_for_what_is_chosen() -> None:
    """For commands that see no images; in_chans and what belongs to long runs alone have their defaults."""
    assert chosen_keys() - set(read_config(find_config("scratch"))) == {"in_chans"}


def test_few_images_are_seen_more_often() -> None:
    found = [values(Facts(images, 10, 300, False))["epochs"] for images in (100, 2_000, 20_000, 50_000)]
    assert found == [300, 100, 15, 15]


def test_a_machine_decides_network_and_workers() -> None:
    assert (values()["arch"], values()["image_size"], values()["num_parallel_workers"]) == ("t2t_vit_4", 64, 0)
    assert (values(machine=GPU)["arch"], values(machine=GPU)["num_parallel_workers"]) == ("t2t_vit_7", 8)
    large = Facts(50_000, 10, 300, False)
    assert (values(large, GPU)["arch"], values(large, GPU)["image_size"]) == ("t2t_vit_14", 224)
    small = Facts(50_000, 10, 32, False)
    assert [values(small, machine)["arch"] for machine in (CPU, GPU)] == ["t2t_vit_s_4"] * 2


def test_a_time_limit_decides_the_epochs() -> None:
    def epochs(hours: float, cores: int = 2) -> int:
        return int(str(values(machine=Machine("cpu", cores, 2**34, hours=hours))["epochs"]))

    assert 1 <= epochs(0.01) < epochs(0.05) < epochs(0.05, cores=4) <= 300
    assert epochs(1e-6) == 1
    assert epochs(100) == 300


def test_processes_share_a_batch_and_memory_bounds_it() -> None:
    assert values()["batch_size"] == 64
    assert values(machine=Machine("cuda", 8, 2**36, processes=4))["batch_size"] == 16
    assert values(Facts(100, 10, 300, False))["batch_size"] == 8
    assert int(str(values(Facts(50_000, 10, 300, False), Machine("cuda", 8, 2**32))["batch_size"])) < 64


def test_the_rest_follows_what_is_given() -> None:
    """A short run is cropped lightly and evaluated as often as a long one."""
    reasons = [
        next(c.reason for c in choose(FACTS, CPU, {"epochs": n}) if "warmup_length" in c.values) for n in (2, 40, 200)
    ]
    assert [reason.partition(";")[0] for reason in reasons] == ["half an epoch", "a twentieth of the run", "5 epochs"]
    assert (values(epochs=20)["min_crop"], values(epochs=20)["eval_every_epochs"]) == (0.5, 2)
    assert (values(epochs=200)["min_crop"], values(epochs=200)["eval_every_epochs"]) == (0.35, 20)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Run) -> Run:
    """A folder `my photos` of two classes of 30 images as they come, of 60 x 52 pixels, one of them palettes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.fsync", lambda _: None)
    rng = np.random.default_rng(0)
    for number, name in enumerate(("cat", "dog")):
        folder = tmp_path / "my photos" / name
        folder.mkdir(parents=True)
        for i in range(30):
            image = Image.fromarray(
                (rng.integers(0, 120, (52, 60, 3)) + np.array([0, 90 * number, 0])).astype(np.uint8)
            )
            (image.quantize(64) if number else image).save(folder / f"{i}.png")
    return command


QUICK = ["--device_target", "CPU", "--amp_level", "O0"]
LINE = ["train", "scratch", "--data_url", "my photos", *QUICK]


@pytest.mark.usefixtures("run")
def test_a_word_is_shown_as_it_was_given() -> None:
    _, lines = prepared(parse(LINE[0], [*LINE[1:], "--batch_size", "auto"]))
    assert lines[-1] == "  as given: batch_size auto"


def test_a_folder_is_enough(run: Run) -> None:
    code, _, err = run(*LINE, "--epochs", "2", "--batch_size", "16")
    assert code == 0, err
    lines = err.splitlines()
    assert lines[0].startswith("scratch: 48 training images of 2 classes, in colour, half of them at least 52 pixels")
    assert (
        "  arch t2t_vit_4, image_size 64: 4 blocks and small images train fast, so each image is seen more often"
        in lines
    )
    assert any(line.startswith("  as given: ") and "batch_size 16" in line for line in lines)
    assert "0.2 of each class of my photos is kept for validation, 12 of 60 images" in err
    assert "place of" not in err  # warm-up was chosen for these epochs
    record = json.loads(Path("runs/logs/t2t_vit_4_scratch/run.json").read_text(encoding="utf-8"))
    kept = {entry["key"]: entry["value"] for section in record["configuration"] for entry in section["keys"]}
    (path,) = Path("runs/checkpoints/t2t_vit_4_scratch").glob("*-2_*.ckpt")
    config = torch.load(path, weights_only=True)["config"]
    for found in (kept, config):
        assert (found["arch"], found["image_size"], found["epochs"], found["batch_size"]) == ("t2t_vit_4", 64, 2, 16)
        assert found["warmup_length"] == 0.5


def test_a_network_for_small_images_is_not_told_of_keys_of_another_one() -> None:
    def resolved(*more: str) -> tuple[Config, list[str]]:
        options, _ = prepared(parse("train", ["scratch", "--dataset", "FashionMNIST", *QUICK, *more]))
        return resolve(options)

    config, notes = resolved()
    assert config.arch == "t2t_vit_s_4" and not any("performer_drop" in note for note in notes)
    assert resolved("--arch", "t2t_vit_7")[0].performer_drop == 0.0  # as the file has it
    _, notes = resolved("--performer_drop", "0.2")
    assert any("performer_drop (t2t_vit_s_4 has no performer)" in note for note in notes)


def test_a_continued_run_repeats_the_choices(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(*LINE, "--epochs", "2", "--max_steps", "2")[0] == 0
    monkeypatch.setattr(scratch, "_rhythm", lambda _: Choice({"warmup_length": 9.0}, "as another version would"))
    code, _, err = run("train", "scratch", *QUICK, "--max_steps", "0", "--resume", "auto")  # it knows its images
    assert code == 0, err
    (path,) = Path("runs/checkpoints/t2t_vit_4_scratch").glob("*-2_*.ckpt")
    assert torch.load(path, weights_only=True)["config"]["warmup_length"] == 0.5


def test_a_time_limit_on_the_command_line_is_planned_for(run: Run) -> None:
    code, text, err = run(*LINE, "--max_hours", "0.0005", "--print_config")
    assert code == 0, err
    assert 1 <= yaml.safe_load(text)["epochs"] < 100
    assert yaml.safe_load(run(*LINE, "--max_hours", "0.0005", "--epochs", "150", "--print_config")[1])["epochs"] == 150


@pytest.mark.usefixtures("run")
def test_the_door_from_python_chooses_as_well() -> None:
    found = t2t_vit.train("scratch", data_url="my photos", device="cpu", amp_level="O0", max_steps=1)
    assert found.checkpoint.is_file()
    assert found.checkpoint.name.startswith("t2t_vit_4-")
    with pytest.raises(t2t_vit.UserError, match="finetune starts from weights"):
        t2t_vit.train("finetune", data_url="my photos", device="cpu")


def test_the_preset_is_known_by_its_file(run: Run, tmp_path: Path) -> None:
    """By its name, by its path, through a link such as the checkout's src/configs; a copy is a plain configuration."""
    (tmp_path / "configs").symlink_to(SHIPPED)
    rest = ["--data_url", "my photos", *QUICK, "--print_config"]
    chosen = run("train", "scratch", *rest)[1]
    assert yaml.safe_load(chosen)["epochs"] == 300
    assert run("train", "--config", str(SHIPPED / "scratch.yaml"), *rest)[1] == chosen
    assert run("train", "--config_path", "configs/scratch.yaml", *rest)[1] == chosen
    Path("copy.yaml").write_bytes((SHIPPED / "scratch.yaml").read_bytes())
    assert yaml.safe_load(run("train", "copy.yaml", *rest)[1])["epochs"] == 100


def test_print_config_gives_a_file_that_chooses_nothing(run: Run) -> None:
    code, text, _ = run(*LINE, "--print_config")
    assert code == 0
    assert yaml.safe_load(text)["epochs"] == 300
    Path("printed.yaml").write_text(text, encoding="utf-8")
    code, again, err = run("train", "printed.yaml", "--print_config")
    assert (code, again) == (0, text)
    assert "scratch:" not in err


def advice(sentence: str) -> list[str]:
    """The words of the command that a sentence ends with."""
    return shlex.split(sentence.strip().rpartition("t2t-vit ")[2])


@pytest.mark.parametrize("recipe", ["finetune", "finetune_384"])
def test_a_transfer_without_weights_names_scratch(run: Run, recipe: str) -> None:
    code, out, err = run("train", recipe, "--data_url", "my photos", *QUICK)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert f"{recipe} starts from weights, but none are given" in err
    command = advice(err)
    assert command == ["train", "scratch", "--data_url", "my photos"]
    assert run(*command, *QUICK, "--max_steps", "1")[0] == 0
    assert not Path(f"runs/checkpoints/t2t_vit_19_{recipe}").exists()


def test_a_transfer_to_a_network_that_is_named_is_somebodys_wish(run: Run) -> None:
    line = ["train", "finetune", "--data_url", "my photos", *QUICK, "--arch", "t2t_vit_quickstart"]
    code, _, err = run(*line, "--image_size", "32", "--max_steps", "1", "--num_parallel_workers", "0")
    assert code == 0, err
    assert "layer_decay 0.75 is for trained weights" in err


def test_scratch_with_weights_names_finetune(run: Run) -> None:
    assert run(*LINE, "--max_steps", "1", "--model_postfix", "_first")[0] == 0
    (path,) = Path("runs/checkpoints/t2t_vit_4_first").glob("*-*.ckpt")
    code, _, err = run(*LINE, "--pretrained", str(path))
    assert (code, err.count("\n")) == (2, 1)
    command = advice(err)
    assert command[:4] == ["train", "finetune", "--data_url", "my photos"]
    code, _, err = run(*command, *QUICK, "--max_steps", "1", "--num_parallel_workers", "0")
    assert code == 0, err


def test_scratch_without_images_says_what_it_needs(run: Run) -> None:
    code, _, err = run("train", "scratch")
    assert (code, err) == (2, "t2t-vit: scratch looks at the images before it chooses the settings; give their "
                              "folder with --data_url FOLDER\n")  # fmt: skip


def test_a_recipe_of_imagenet_on_a_cpu_names_scratch(run: Run) -> None:
    line = ["train", "t2t_vit_7", "--data_url", "my photos", "--val_split", "0.2", "--image_size", "32", *QUICK]
    code, _, err = run(*line, "--max_steps", "1", "--num_parallel_workers", "0", "--pynative_mode", "True")
    assert code == 0, err
    (sentence,) = [line for line in err.splitlines() if "is for ImageNet" in line]
    assert sentence.startswith("t2t_vit_7 is for ImageNet on 8 GPUs, 300 epochs; for your own images on a CPU")
    assert advice(sentence) == ["train", "scratch", "--data_url", "my photos"]


def test_the_readme_begins_with_scratch(run: Run) -> None:
    """What it says of a folder of images works as it stands there; recipes of ImageNet are not what it names first."""
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    first, second, *_ = [shlex.split(line) for line in readme.splitlines() if line.startswith("t2t-vit train ")]
    assert first == ["t2t-vit", "train", "scratch", "--data_url", "photos"]
    assert second[:5] == ["t2t-vit", "train", "finetune", "--data_url", "photos"] and "--pretrained" in second
    Path("my photos").rename("photos")
    code, _, err = run(*first[1:], *QUICK, "--max_steps", "1")
    assert code == 0, err


def save(folder: Path, name: str, pixels: np.ndarray) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(folder / name)


def test_grey_images_and_broken_ones_are_seen(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(20):
        grey = np.repeat(rng.integers(0, 256, (30, 44, 1)), 3, axis=2)
        for name in "ab":
            save(tmp_path, f"{name}/{i}.png", grey)
    (tmp_path / "a/broken.png").write_bytes(b"no image")
    config = Config(data_url=str(tmp_path), val_split=0.5)
    assert look(config) == Facts(images=21 - 1, classes=2, side=30, grey=True)
    for i in range(0, 20, 2):
        save(tmp_path, f"b/{i}.png", rng.integers(0, 256, (30, 44, 3)))
    assert not look(config).grey
    assert values(Facts(40, 2, 30, grey=True))["in_chans"] == 1


def test_a_class_that_may_not_be_looked_into_holds_broken_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(10):
        for name in "ab":
            save(tmp_path, f"{name}/{i}.png", np.zeros((30, 44, 3)))
    original = Path.stat

    def closed(self: Path, **how: bool) -> object:
        if self.parent == tmp_path / "b":
            raise PermissionError(13, "Permission denied")
        return original(self, **how)

    monkeypatch.setattr(Path, "stat", closed)
    assert look(Config(data_url=str(tmp_path), val_split=0.5)).side == 30


def test_embedded_images_are_looked_at_as_well() -> None:
    assert look(Config(dataset="FashionMNIST")) == Facts(images=12_000, classes=10, side=28, grey=True)
