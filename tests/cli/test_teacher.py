"""The keys `teacher` and `distill`: which networks can teach, whose classes they know, and what a run says of them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from t2t_vit.assembly.teacher import guidance_of, loss_note, open_teacher
from t2t_vit.data.preprocessing import Preprocessing
from t2t_vit.errors import UserError
from t2t_vit.model import T2TViT, create_model
from t2t_vit.model.token_logits import TokenMixing
from t2t_vit.precision import choose_precision
from t2t_vit.settings.schema import Config
from t2t_vit.training.teacher import Teacher, TokenDistillation
from t2t_vit.weights import read_saved_run

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")
NAME = "t2t_vit_quickstart"
CLASSES = ("cat", "dog", "owl")
Opened = tuple[Teacher, list[str]]


def network(classes: int = 3, *, size: int = 28, in_chans: int = 3) -> T2TViT:
    torch.manual_seed(0)
    model = create_model(NAME, num_classes=classes, image_size=size, in_chans=in_chans).eval()
    torch.nn.init.normal_(model.head.weight)
    return model


def saved(folder: Path, classes: tuple[str, ...], **settings: int) -> tuple[Path, T2TViT]:
    """A folder with a network that knows these classes."""
    model = network(len(classes), **settings)
    model.save_pretrained(folder / "teacher", classes=classes, preprocessing={"mean": (0.5,), "std": (0.25,)})
    return folder / "teacher", model


def opened(path: Path, classes: tuple[str, ...] = CLASSES, **keys: object) -> Opened:
    notes: list[str] = []
    plain: dict[str, object] = {"arch": NAME, "image_size": 28, "distill": "soft", "kernels": "reference"}
    config = Config(**{**plain, "teacher": str(path), **keys})  # type: ignore[arg-type]
    teacher = open_teacher(config, classes, choose_precision(config.amp_level, CPU, training=True), notes.append)
    assert teacher is not None
    return teacher, notes


def images(size: int = 28, channels: int = 3) -> torch.Tensor:
    return torch.randint(0, 256, (2, channels, size, size), generator=torch.Generator().manual_seed(0)).byte()


def test_the_teacher_is_asked_as_it_was_trained(tmp_path: Path) -> None:
    """By the student's normalised images it answers what it answers to the pixels, normalised as it knows them."""
    path, model = saved(tmp_path, CLASSES)
    teacher, notes = opened(path)
    student, own = Preprocessing((28, 28)), Preprocessing((28, 28), mean=(0.5,) * 3, std=(0.25,) * 3)
    torch.testing.assert_close(
        teacher(student.normalize(images())), model(own.normalize(images())).detach(), rtol=1e-4, atol=1e-4
    )
    assert notes == [f"teacher: {path}, {NAME}, raw weights, 28 x 28 pixels; the plain network"]


def test_a_larger_network_of_grey_images_teaches_one_of_small_coloured_ones(tmp_path: Path) -> None:
    path, _ = saved(tmp_path, CLASSES, size=32, in_chans=1)
    assert opened(path)[0](torch.randn(2, 3, 28, 28)).shape == (2, 3)


@pytest.mark.parametrize("level", ["O0", "bf16"])
def test_on_a_cpu_the_teacher_is_packed(tmp_path: Path, level: str) -> None:
    path, model = saved(tmp_path, CLASSES)
    config = Config(arch=NAME, image_size=28, teacher=str(path), distill="hard", mean=(0.5,) * 3, std=(0.25,) * 3)
    notes: list[str] = []
    teacher = open_teacher(config, CLASSES, choose_precision(level, CPU, training=True), notes.append)
    assert teacher is not None and "; a packed copy (" in notes[-1]
    inputs = torch.randn(2, 3, 28, 28)
    expected = model(inputs).detach()
    torch.testing.assert_close(teacher(inputs), expected, rtol=0, atol=0.05 * float(expected.abs().max()))


def test_classes_are_matched_by_name_whatever_their_order(tmp_path: Path) -> None:
    path, _ = saved(tmp_path, CLASSES)
    other = ("owl", "cat", "dog")
    inputs = torch.randn(2, 3, 28, 28)
    (straight, _), (teacher, notes) = opened(path), opened(path, other)
    torch.testing.assert_close(teacher(inputs), straight(inputs)[:, [2, 0, 1]])
    assert notes[0] == f"teacher {path}: its classes are matched by name"


def test_a_teacher_of_more_classes_answers_for_those_of_the_data(tmp_path: Path) -> None:
    path, _ = saved(tmp_path, ("ant", *CLASSES, "elk"))
    teacher, notes = opened(path)
    assert teacher.columns is not None and teacher.columns.tolist() == [1, 2, 3]
    assert notes[0] == f"teacher {path}: 3 of its 5 classes are matched by name"


def test_names_that_two_systems_write_in_two_ways_are_the_same(tmp_path: Path) -> None:
    path, _ = saved(tmp_path, ("bär", "dog"))
    assert opened(path, ("ba\u0308r", "dog"))[0].columns is None


def test_classes_without_names_are_taken_in_their_order(tmp_path: Path) -> None:
    torch.save(network().state_dict(), tmp_path / "weights.pth")
    teacher, notes = opened(tmp_path / "weights.pth")
    assert teacher.columns is None
    assert "its 3 classes have no names; they are taken to be those of the data, in the same order" in notes[-2]


@pytest.mark.parametrize(
    ("known", "sentence"),
    [
        (("cat", "dog", "elk"), "does not know 1 of the 3 classes (owl); a teacher must know"),
        (None, "has 4 classes without names, but the data have 3; a teacher must know"),
    ],
)
def test_a_teacher_of_other_classes_is_refused(tmp_path: Path, known: tuple[str, ...] | None, sentence: str) -> None:
    if known is None:
        path = tmp_path / "weights.pth"
        torch.save(network(4).state_dict(), path)
    else:
        path, _ = saved(tmp_path, known)
    with pytest.raises(UserError) as caught:
        opened(path)
    assert sentence in str(caught.value) and str(path) in str(caught.value)


def test_its_digest_tells_weights_and_preprocessing_from_others_and_no_formats(tmp_path: Path) -> None:
    path, model = saved(tmp_path, CLASSES)
    digest = opened(path)[0].digest
    model.save_pretrained(tmp_path / "moved", classes=CLASSES, preprocessing={"mean": (0.5,), "std": (0.25,)})
    assert opened(tmp_path / "moved")[0].digest == digest
    model.save_pretrained(tmp_path / "moved", classes=CLASSES, preprocessing={"mean": (0.4,), "std": (0.25,)})
    assert opened(tmp_path / "moved")[0].digest != digest
    with torch.no_grad():
        model.head.bias[0] = 1.0
    model.save_pretrained(tmp_path / "moved", classes=CLASSES, preprocessing={"mean": (0.5,), "std": (0.25,)})
    assert opened(tmp_path / "moved")[0].digest != digest


@pytest.mark.parametrize("kernels", ["reference", "auto"])
def test_a_teacher_of_tokens_gives_a_map_of_scores(tmp_path: Path, kernels: str) -> None:
    path, model = saved(tmp_path, CLASSES, size=32)
    inputs = torch.randn(2, 3, 32, 32)
    keys = {"distill": "dense", "image_size": 32, "mean": (0.5,) * 3, "std": (0.25,) * 3, "kernels": kernels}
    teacher = opened(path, ("owl", "cat", "dog"), **keys)[0]
    answers = teacher(inputs)
    assert answers.shape == (2, 3, *model.grid)
    expected = model.head(model.forward_features(inputs)[:, 1:])[..., [2, 0, 1]].detach()
    torch.testing.assert_close(answers.flatten(2).transpose(1, 2), expected, rtol=1e-3, atol=1e-3)


def test_boxes_of_tokens_are_a_function_of_seed_step_and_batch() -> None:
    config = Config(arch=NAME, image_size=28, distill="dense", mix_token=1.0, seed=5)

    def box(config: Config, step: int, part: int) -> torch.Tensor:
        guidance = guidance_of(config, Teacher(lambda images: images), CPU)
        assert isinstance(guidance, TokenDistillation) and isinstance(guidance.mixing, TokenMixing)
        guidance.mixing.begin((7, 7), step, part)
        assert guidance.mixing.taken is not None
        return guidance.mixing.taken

    first = box(config, 3, 0)
    assert first.shape == (49,) and first.dtype == torch.bool
    assert torch.equal(first, box(config, 3, 0))
    shares = [box(config, step, part).float().mean().item() for step in range(100) for part in range(2)]
    assert len(set(shares)) > 10
    assert 0.2 < sum(shares) / len(shares) < 0.5  # uniform areas, cut off at the borders
    assert not all(torch.equal(box(config, step, 0), box(replace(config, seed=6), step, 0)) for step in range(5))
    guidance = guidance_of(replace(config, mix_token=0.0), Teacher(lambda images: images), CPU)
    assert isinstance(guidance, TokenDistillation) and guidance.mixing is None


def test_the_loss_of_the_log_is_described() -> None:
    soft = Config(distill="soft", distill_temperature=2.0, distill_weight=0.7)
    assert loss_note(soft) == (
        "distill soft: the training loss is 0.3 x the loss of the targets + 0.7 x the divergence from the teacher's "
        "probabilities at temperature 2, times its square"
    )
    assert "+ 0.5 x the cross-entropy with the teacher's first choice" in loss_note(Config(distill="hard"))
    assert "+ 0.5 x the cross-entropy of each token with the teacher's" in loss_note(Config(distill="dense"))


LINE = (
    f"--arch={NAME} --image_size=28 --in_chans=1 --mean=0.5 --std=0.5 --dataset=FashionMNIST --train_num_samples=20 "
    "--val_num_samples=10 --epochs=1 --warmup_length=0 --batch_size=10 --num_parallel_workers=0 --pynative_mode=True "
    "--device_target=CPU"
).split()
Command = Callable[..., tuple[int, str, str]]


def test_a_run_with_a_teacher_keeps_nothing_of_it_but_its_name_and_digest(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command("train", *LINE, "--model_postfix=_teacher")[0] == 0
    teacher = f"runs/checkpoints/{NAME}_teacher/last.ckpt"
    code, _, err = command("train", *LINE, "--distill=soft", f"--teacher={teacher}", "--with_ema=True")
    assert code == 0, err
    assert f"teacher: {teacher}, {NAME}, raw weights, 28 x 28 pixels; a packed copy" in err
    assert "distill soft: the training loss is 0.5 x the loss of the targets + 0.5 x the divergence" in err
    plain, distilled = (
        read_saved_run(Path(f"runs/checkpoints/{NAME}{postfix}/last.ckpt")).content for postfix in ("_teacher", "")
    )
    assert distilled.keys() == plain.keys()
    assert distilled["model"].keys() == plain["model"].keys() == distilled["ema"].keys()
    assert len(distilled["optimizer"]["state"]) == len(plain["optimizer"]["state"])
    assert distilled["data"].keys() - plain["data"].keys() == {"teacher"}
    assert distilled["config"]["teacher"] == teacher


@pytest.mark.thorough
def test_a_teacher_that_is_refused_teaches_once_it_was_trained_on_the_data(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path, _ = saved(tmp_path, CLASSES, size=28, in_chans=1)
    code, _, err = command("train", *LINE, "--distill=hard", f"--teacher={path}")
    assert code == 2
    assert "does not know 10 of the 10 classes (" in err
    assert "and 5 more); a teacher must know the classes of the data: first train it on them, with --pretrained" in err
    assert command("train", *LINE, f"--pretrained={path}", "--model_postfix=_teacher")[0] == 0
    teacher = f"runs/checkpoints/{NAME}_teacher/last.ckpt"
    code, _, err = command("train", *LINE, "--distill=hard", f"--teacher={teacher}")
    assert code == 0, err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--distill=hard"], "distill hard needs a teacher; give its file with --teacher, or leave distill at none"),
        (["--distill=soft", "--teacher=none.ckpt"], "teacher none.ckpt: no such file; give its file with --teacher\n"),
        (
            ["--distill=dense", "--teacher=x", "--mix_token=1"],
            "mix_token 1.0 takes the place of mixup and cutmix; set both to 0, or leave mix_token at 0",
        ),
        (["--distill=mild"], "--distill takes one of none, soft, hard, dense; not 'mild'"),
        (["--distill=soft", "--teacher=x", "--distill_weight=0"], "distill_weight"),
    ],
)
def test_what_cannot_teach_is_one_sentence_and_leaves_nothing(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = command("train", *LINE, *words)
    assert code == 2
    assert err.count("\n") == 1 and sentence in err
    assert list(tmp_path.rglob("*")) == []
