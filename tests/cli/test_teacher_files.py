"""Teachers that are not checkpoints of ours: timm's networks with local weights, and exported files."""

import json
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import timm
import torch
from timm.task.distillation import LogitDistillationTask
from torch.nn.functional import cross_entropy

from t2t_vit.assembly.teacher import open_teacher
from t2t_vit.assembly.teacher_files import _maps_of_timm
from t2t_vit.cli.main import main
from t2t_vit.data.conversion import Conversion
from t2t_vit.data.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from t2t_vit.errors import UserError
from t2t_vit.model import create_model
from t2t_vit.precision import choose_precision
from t2t_vit.settings.schema import Config
from t2t_vit.training.teacher import Distillation, Teacher, soft_loss

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")
CLASSES = ("cat", "dog", "owl")
# Small ones of each kind: a CNN, a CNN with a norm in its head, a ViT with a class token, and windows in NHWC.
CNN, SWIN = "test_resnet.r160_in1k", "swin_tiny_patch4_window7_224"


def opened(path: str, classes: tuple[str, ...] = CLASSES, **keys: Any) -> Teacher:
    config = Config(**{"arch": "t2t_vit_quickstart", "image_size": 32, "teacher": path, "distill": "soft", **keys})
    teacher = open_teacher(config, classes, choose_precision("O0", CPU, training=True), lambda _: None)
    assert teacher is not None
    return teacher


def network(name: str, **arguments: Any) -> Any:
    torch.manual_seed(0)
    create: Any = timm.create_model
    return create(name, **{"num_classes": 3, **arguments}).eval()


def test_a_network_of_timms_answers_as_by_itself(tmp_path: Path) -> None:
    model = network(CNN)
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    teacher = opened(f"timm:{CNN}@32={tmp_path / 'weights.pth'}")
    data = timm.data.resolve_model_data_config(model)
    inputs = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    own = Preprocessing((32, 32), mean=data["mean"], std=data["std"])
    images = Preprocessing((32, 32), mean=IMAGENET_MEAN, std=IMAGENET_STD).normalize(inputs)
    torch.testing.assert_close(teacher(images), model(own.normalize(inputs)).detach(), rtol=1e-4, atol=1e-4)
    assert not any(parameter.requires_grad for parameter in teacher.network.parameters())  # type: ignore[attr-defined]


def test_a_step_is_that_of_timms_own_task() -> None:
    """The whole of soft distillation against timm's: loss and gradients, two networks of other means and deviations."""
    teacher, student = network("test_vit", img_size=32), network("test_resnet")
    teacher.pretrained_cfg |= {"mean": (0.1, 0.2, 0.3), "std": (0.5, 0.6, 0.7)}
    student.pretrained_cfg |= {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    images, targets = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 0])
    theirs = LogitDistillationTask(
        student, teacher, torch.nn.CrossEntropyLoss(), task_loss_weight=0.3, temperature=2.0, verbose=False
    )
    theirs(images, targets)["loss"].backward()
    expected = [parameter.grad.clone() for parameter in student.parameters()]
    loss = theirs(images, targets)["loss"].item()
    student.zero_grad()

    view = Conversion(
        Preprocessing((32, 32), mean=IMAGENET_MEAN, std=IMAGENET_STD),
        Preprocessing((32, 32), mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7)),
        CPU,
    )
    ours = Distillation(Teacher(teacher, view), partial(soft_loss, temperature=2.0), 0.7)
    value = ours.about(images, cross_entropy)(student(images), targets)
    value.backward()
    assert value.item() == pytest.approx(loss, rel=1e-5)
    for parameter, gradient in zip(student.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-6)


def test_a_network_that_takes_images_of_any_size_needs_none(tmp_path: Path) -> None:
    """It embeds patches, as those do that are built for one size, but does not know the word."""
    model = network("pvt_v2_b0")
    torch.save(model.state_dict(), tmp_path / "w.pth")
    teacher = opened(f"timm:pvt_v2_b0@32={tmp_path / 'w.pth'}")
    images = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(teacher(images), model(images).detach())


def test_without_a_side_it_sees_images_of_its_own_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"state_dict": {f"module.{k}": v for k, v in network(CNN).state_dict().items()}}, tmp_path / "w.pth")
    monkeypatch.setenv("HOME", str(tmp_path))
    teacher = opened(f"timm:{CNN}=~/w.pth")
    assert teacher.view(torch.randn(1, 3, 32, 32)).shape[-2:] == timm.get_pretrained_cfg(CNN).input_size[1:]


def test_a_folder_tells_preprocessing_and_classes(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    model = network(CNN, in_chans=1)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    said = {"architecture": "test_resnet", "num_classes": 3, "label_names": ["owl", "cat", "dog"]}
    said["pretrained_cfg"] = {"mean": [0.5], "std": [0.25], "input_size": [1, 48, 48]}
    (tmp_path / "config.json").write_text(json.dumps(said), encoding="utf-8")
    teacher = opened(f"timm:{CNN}={tmp_path}", in_chans=1, mean=(0.5,), std=(0.25,), image_size=48)
    images = torch.randn(2, 1, 48, 48)
    torch.testing.assert_close(teacher(images), model(images).detach()[:, [1, 2, 0]])


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "test_vit", "test_vit3", SWIN])
def test_a_map_is_the_head_at_each_place(tmp_path: Path, name: str) -> None:
    """Its mean is the answer where the head is linear and its pool the mean; a ViT's class token has no place in it."""
    small = {"img_size": 64, "embed_dim": 32, "depths": (1, 1), "num_heads": (1, 2), "window_size": 4}
    model = network(name, **(small if name.startswith("swin") else {}))
    if name.startswith("swin"):
        images = torch.randn(2, 3, 64, 64)
        maps = _maps_of_timm("swin", model, images).detach()
    else:
        torch.save(model.state_dict(), tmp_path / "w.pth")
        teacher = opened(f"timm:{name}={tmp_path / 'w.pth'}", distill="dense")
        images = torch.randn(2, 3, 32, 32)
        maps = teacher(images)
        images = teacher.view(images)
    assert maps.shape[:2] == (2, 3) and maps.ndim == 4 and min(maps.shape[2:]) > 1
    features = model.forward_features(images)
    if name == "test_resnet":
        torch.testing.assert_close(maps.mean((2, 3)), model(images).detach(), rtol=1e-4, atol=1e-4)
        by_hand = torch.einsum("kc,bchw->bkhw", model.fc.weight, features) + model.fc.bias.view(3, 1, 1)
        torch.testing.assert_close(maps, by_hand.detach(), rtol=1e-4, atol=1e-4)
    elif name.startswith("swin"):
        torch.testing.assert_close(maps.mean((2, 3)), model(images).detach(), rtol=1e-4, atol=1e-4)
    elif name == "test_vit":
        by_hand = model.head(model.fc_norm(features[:, 1:]))
        torch.testing.assert_close(maps.flatten(2).transpose(1, 2), by_hand.detach(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "side", "distill", "sentence"),
    [
        (
            "xcit_nano_12_p8_224",
            32,
            "dense",
            "this network has no feature map, which distill dense needs; choose distill soft or hard",
        ),
        ("crossvit_tiny_240", 240, "dense", "this network has no feature map"),  # it has two
        ("crossvit_tiny_240", 48, "soft", r"fails on images of 48 x 48 pixels \(.+\); name the size that it"),
    ],
)
def test_what_a_network_cannot_answer_is_known_when_it_is_opened(
    tmp_path: Path, name: str, side: int, distill: str, sentence: str
) -> None:
    torch.save(network(name, img_size=side).state_dict(), tmp_path / "w.pth")
    with pytest.raises(UserError, match=sentence):
        opened(f"timm:{name}@{side}={tmp_path / 'w.pth'}", distill=distill)


def test_memory_that_runs_out_is_no_wrong_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(network(CNN).state_dict(), tmp_path / "w.pth")
    text = "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to"
    refused = Mock(side_effect=RuntimeError(text))
    monkeypatch.setattr("timm.models.resnet.ResNet.forward", refused)
    with pytest.raises(RuntimeError, match="can't allocate"):
        opened(f"timm:{CNN}={tmp_path / 'w.pth'}")


def test_imagenets_networks_teach_a_part_of_its_folders(tmp_path: Path) -> None:
    model = network(CNN, num_classes=1000)
    torch.save(model.state_dict(), tmp_path / "w.pth")
    names = timm.data.ImageNetInfo("imagenet-1k").label_names()
    teacher = opened(f"timm:{CNN}={tmp_path / 'w.pth'}", (names[7], names[3]))
    assert teacher.columns is not None and teacher.columns.tolist() == [7, 3]


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("timm:test_resnet", "a network of timm's is written timm:NAME=FILE, such as timm:resnet18=resnet18.pth"),
        ("timm:hf-hub:owner/name=w.pth", "a network of timm's is written timm:NAME=FILE"),
        ("timm:resnet81=w.pth", "timm has no network 'resnet81'; did you mean 'resnet18'?"),
        ("timm:test_resnet=none.pth", "none.pth: no such file"),
        ("timm:test_vit=w.pth", "w.pth: are not the weights of timm's test_vit: "),
        ("timm:test_resnet=w.txt", "w.txt: is a text file, not a checkpoint"),
    ],
)
def test_what_is_no_network_of_timms_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(network("test_resnet").state_dict(), "w.pth")
    Path("w.txt").write_text("no weights", encoding="utf-8")
    with pytest.raises(UserError) as caught:
        opened(path)
    assert sentence in str(caught.value) and "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """An ONNX file of a network that knows CLASSES, and the network."""
    folder = tmp_path_factory.mktemp("exported")
    torch.manual_seed(0)
    model = create_model("t2t_vit_quickstart", num_classes=3, image_size=32).eval()
    model.save_pretrained(folder / "network", classes=CLASSES, preprocessing={"mean": (0.5,), "std": (0.25,)})
    words = ["--file_format=ONNX", f"--pretrained={folder / 'network'}", f"--output={folder}"]
    assert main(["export", *words]) == 0
    (file,) = folder.glob("*.onnx")
    return file, model


def test_an_exported_file_teaches(exported: tuple[Path, Any]) -> None:
    file, model = exported
    teacher = opened(str(file), ("owl", "cat", "dog"), mean=(0.5,) * 3, std=(0.25,) * 3)
    images = torch.randn(3, 3, 32, 32)
    torch.testing.assert_close(teacher(images), model(images).detach()[:, [2, 0, 1]], rtol=1e-3, atol=1e-3)
    assert teacher.digest == opened(str(file)).digest > 0


def test_an_exported_file_has_no_map(exported: tuple[Path, Any]) -> None:
    with pytest.raises(UserError, match="for distill dense, give the checkpoint that it was exported from"):
        opened(str(exported[0]), distill="dense")


def test_a_program_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "network.engine").write_bytes(b"\x40\0\0\0" + b'{"producer": "t2t_vit"}')
    with pytest.raises(UserError, match="is a program, which may do anything on this machine, so it cannot teach"):
        opened(str(tmp_path / "network.engine"))
