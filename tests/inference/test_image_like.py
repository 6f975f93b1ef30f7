"""Everything that a program may hold as an image gives the same answer, one or many."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from t2t_vit.data.preprocessing import Preprocessing
from t2t_vit.errors import UserError
from t2t_vit.inference.item import Prediction
from t2t_vit.inference.torch_predictor import TorchPredictor


class MeanColour(torch.nn.Module):
    """Logits are the mean of each channel, so the answer is the strongest colour."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean(dim=(2, 3)) * 10


def predictor() -> TorchPredictor:
    return TorchPredictor(MeanColour(), Preprocessing((8, 8), mean=(0.5,), std=(0.5,)), ("red", "green", "blue"))


PIXELS = np.zeros((12, 9, 3), np.uint8)
PIXELS[..., 0], PIXELS[..., 1], PIXELS[..., 2] = 40, 90, 200


def encoded() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def forms(tmp_path: Path) -> Iterator[dict[str, Any]]:
    path = tmp_path / "a.png"
    path.write_bytes(encoded())
    half_read = io.BytesIO(encoded())
    half_read.read(20)
    chw = torch.from_numpy(PIXELS).permute(2, 0, 1)
    alpha = np.concatenate([PIXELS, np.full((12, 9, 1), 255, np.uint8)], 2)
    found = {
        "str": str(path),
        "path": path,
        "bytes": encoded(),
        "bytearray": bytearray(encoded()),
        "memoryview": memoryview(encoded()),
        "file": io.BytesIO(encoded()),
        "file that was read": half_read,
        "open file": path.open("rb"),
        "pillow": Image.fromarray(PIXELS),
        "array": PIXELS,
        "array of ints": PIXELS.astype(np.int64),
        "array of floats": PIXELS / 255,
        "array of 16 bits": PIXELS.astype(np.uint16) * 257,
        "array upside down and back": PIXELS[::-1][::-1],
        "array with alpha": alpha,
        "tensor": chw,
        "tensor of floats": chw.float() / 255,
        "tensor with a gradient": (chw.float() / 255).requires_grad_(),
    }
    yield found
    found["open file"].close()


FORMS = (
    "str", "path", "bytes", "bytearray", "memoryview", "file", "file that was read", "open file", "pillow", "array",
    "array of ints", "array of floats", "array of 16 bits", "array upside down and back", "array with alpha", "tensor",
    "tensor of floats", "tensor with a gradient",
)  # fmt: skip


def test_every_form_is_tried(forms: dict[str, Any]) -> None:
    assert tuple(forms) == FORMS


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_answer_alone_and_in_a_list(form: str, forms: dict[str, Any]) -> None:
    expected = predictor().predict(Image.fromarray(PIXELS))
    image = forms[form]
    assert predictor().predict(image) == expected
    assert predictor().predict([image, PIXELS]) == [expected, expected]


def test_grey_images_have_no_channels_or_one() -> None:
    grey = np.full((10, 11), 77, np.uint8)
    expected = predictor().predict(Image.fromarray(grey))
    for image in (grey, grey[..., None], torch.from_numpy(grey), torch.from_numpy(grey)[None]):
        assert predictor().predict(image) == expected


def test_of_many_in_one_array_each_is_answered() -> None:
    red = PIXELS[..., ::-1]
    names = ["blue", "red", "blue"]
    batch = np.stack([PIXELS, red, PIXELS])
    assert [answer.name for answer in predictor().predict(batch)] == names
    assert [answer.name for answer in predictor().predict(torch.from_numpy(batch.copy()).permute(0, 3, 1, 2))] == names
    assert [answer.name for answer in predictor().predict(list(batch))] == names
    assert predictor().predict([]) == []


def test_top_k_is_a_list_for_each_image() -> None:
    best = predictor().predict(PIXELS)
    one = predictor().predict(PIXELS, top_k=2)
    assert [answer.name for answer in one] == ["blue", "green"] and one[0] == best
    assert predictor().predict([PIXELS, PIXELS], top_k=2) == [one, one]
    assert predictor().predict(PIXELS, top_k=1) == [best]
    assert len(predictor().predict(PIXELS, top_k=99)) == 3
    assert all(isinstance(answer, Prediction) for answer in one)
    with pytest.raises(UserError, match="top_k takes a number of at least 1"):
        predictor().predict(PIXELS, top_k=-1)


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        (np.zeros((3, 20, 20), np.uint8), r"its shape is \(3, 20, 20\); an array is \(H, W, C\) or \(H, W\)"),
        (torch.zeros(20, 20, 3), r"its shape is \(20, 20, 3\); a tensor is \(C, H, W\) or \(H, W\)"),
        (np.zeros((0, 20, 3), np.uint8), "its shape is"),
        (np.zeros(5, np.uint8), "its shape is"),
        (torch.randn(3, 20, 20), "floats go from 0 to 1, before any normalisation"),
        (np.full((4, 4, 3), 200.0), "its numbers go from 200 to 200; floats go from 0 to 1"),
        (np.full((4, 4), np.nan), "floats go from 0 to 1"),
        (np.full((4, 4, 3), -1), "numbers of type int64 go from 0 to 255"),
        (np.full((4, 4), "a"), "its numbers are of type"),
        (b"no image", "image: it is not an image"),
        (b"", "the file is empty"),
        (io.StringIO("text"), "the file is open in text mode; open it with mode 'rb'"),
        ("gone.png", "gone.png: it cannot be read"),
    ],
)
def test_what_cannot_be_shown_is_one_sentence(image: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        predictor().predict(image)
    with pytest.raises(UserError, match=sentence):
        predictor().predict([PIXELS, image])


@pytest.mark.parametrize("image", [3, None, {"a": 1}, [[1, 2], [3, 4]]])
def test_what_is_no_image_at_all(image: Any) -> None:
    with pytest.raises(TypeError):
        predictor().predict([image])


@pytest.mark.parametrize("image", [3, None])
def test_what_is_no_image_is_refused_as_one_too(image: Any) -> None:
    with pytest.raises(TypeError, match=f"an image is a path, bytes, .*; not {type(image).__name__}"):
        predictor().predict(image)
