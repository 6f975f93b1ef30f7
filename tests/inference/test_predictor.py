"""Images -> predictions, one or many, good or bad."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from t2t_vit.data.preprocessing import Preprocessing
from t2t_vit.errors import UserError
from t2t_vit.inference.predictor import BATCH_SIZE, Prediction
from t2t_vit.inference.run import predict_files
from t2t_vit.inference.torch_predictor import TorchPredictor


class MeanColour(torch.nn.Module):
    """Logits are the mean of each channel, so the answer is the strongest colour. Remembers the batches it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.batches.append(len(images))
        return images.mean(dim=(2, 3)) * 10


def predictor() -> TorchPredictor:
    preprocessing = Preprocessing((8, 8), mean=(0.5,), std=(0.5,))
    return TorchPredictor(MeanColour(), preprocessing, ("red", "green", "blue"))


def picture(colour: str, size: tuple[int, int] = (12, 9)) -> Image.Image:
    return Image.new("RGB", size, colour)


def test_one_image_gives_one_prediction(tmp_path: Path) -> None:
    picture("blue").save(tmp_path / "b.png")
    for image in (picture("blue"), tmp_path / "b.png", str(tmp_path / "b.png")):
        answer = predictor().predict(image)
        assert isinstance(answer, Prediction) and (answer.index, answer.name) == (2, "blue")
        assert answer.probability == pytest.approx(1.0, abs=1e-6)


def test_several_give_a_list_in_their_order(tmp_path: Path) -> None:
    picture("red").save(tmp_path / "r.png")
    answers = predictor().predict([picture("blue"), tmp_path / "r.png", picture("lime", (3, 40))])
    assert [answer.name for answer in answers] == ["blue", "red", "green"]
    assert predictor().predict([]) == []
    assert len(predictor().predict(picture("red") for _ in range(BATCH_SIZE + 1))) == BATCH_SIZE + 1


def test_without_class_names_there_is_only_the_number() -> None:
    nameless = TorchPredictor(MeanColour(), predictor().preprocessing, None)
    assert nameless.predict(picture("blue")) == Prediction(2, None, nameless.predict(picture("blue")).probability)


def test_images_of_other_modes_are_shown_right() -> None:
    grey = Image.fromarray(np.full((9, 9), 65535, dtype=np.uint16))
    seen = predictor().prepare(grey)
    assert seen.shape == (3, 8, 8) and (seen == 255).all()


def test_what_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_text("no image")
    with pytest.raises(UserError, match=r"bad\.png: it is not an image"):
        predictor().predict(tmp_path / "bad.png")
    with pytest.raises(TypeError, match="not int"):
        predictor().predict([3])  # type: ignore[list-item]


def test_a_bad_file_never_stops_the_rest(tmp_path: Path) -> None:
    for index in range(7):
        picture(("red", "blue")[index % 2]).save(tmp_path / f"{index}.png")
    (tmp_path / "2.png").write_bytes((tmp_path / "3.png").read_bytes()[:40])
    (tmp_path / "4.png").write_bytes(b"")
    files = [str(tmp_path / f"{index}.png") for index in range(7)] + [str(tmp_path / "gone.png")]
    network = predictor()
    results = list(predict_files(network, files, batch_size=3))
    assert [file for file, _ in results] == files
    names = [result.name if isinstance(result, Prediction) else None for _, result in results]
    assert names == ["red", "blue", None, "blue", None, "blue", "red", None]
    reasons = [result for _, result in results if isinstance(result, str)]
    assert reasons[1] == "the file is empty" and all(reasons) and "No such file" in reasons[2]
    assert isinstance(network.model, MeanColour) and network.model.batches == [2, 2, 1]


def test_batches_of_bad_files_only(tmp_path: Path) -> None:
    files = [str(tmp_path / name) for name in ("a", "b")]
    assert all(isinstance(result, str) for _, result in predict_files(predictor(), files))
    assert list(predict_files(predictor(), [])) == []


def test_predicting_changes_no_state() -> None:
    network = predictor()
    network.model.train()
    fresh = TorchPredictor(network.model, network.preprocessing, network.classes)
    assert not fresh.model.training
    assert fresh.logits(torch.zeros(2, 3, 8, 8, dtype=torch.uint8)).dtype == torch.float32
