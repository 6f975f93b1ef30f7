"""Images -> predictions, one or many, good or bad."""

import logging
import math
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from t2t_vit.data.preprocessing import Preprocessing
from t2t_vit.errors import UserError
from t2t_vit.inference.exported import quiet
from t2t_vit.inference.item import BATCH_SIZE, ImageResult, Item, Prediction
from t2t_vit.inference.pipeline import answer_batches
from t2t_vit.inference.readers import Readers
from t2t_vit.inference.torch_predictor import TorchPredictor
from t2t_vit.precision import choose_precision


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


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_file_never_stops_the_rest(tmp_path: Path, workers: int) -> None:
    for index in range(7):
        picture(("red", "blue")[index % 2]).save(tmp_path / f"{index}.png")
    (tmp_path / "2.png").write_bytes((tmp_path / "3.png").read_bytes()[:40])
    (tmp_path / "4.png").write_bytes(b"")
    files = [str(tmp_path / f"{index}.png") for index in range(7)] + [str(tmp_path / "gone.png")]
    network = predictor()
    results = list(network.stream(files, batch_size=3, workers=workers))
    assert [result.path for result in results] == files
    names = [[each.name for each in result.predictions] for result in results]
    assert names == [["red"], ["blue"], [], ["blue"], [], ["blue"], ["red"], []]
    reasons = [result.reason for result in results if not result.predictions]
    assert reasons[1] == "the file is empty" and all(reasons) and "No such file" in reasons[2]
    assert isinstance(network.model, MeanColour) and network.model.batches == [2, 2, 1]


def test_a_stream_gives_as_many_classes_as_are_asked_for(tmp_path: Path) -> None:
    Image.new("RGB", (9, 9), (250, 10, 100)).save(tmp_path / "x.png")
    (result,) = predictor().stream([tmp_path / "x.png"], top_k=2)
    assert [each.name for each in result.predictions] == ["red", "blue"]


def test_what_is_known_is_neither_read_nor_computed_again(tmp_path: Path) -> None:
    """It stands in its place, and so does what is new."""
    for name in ("red", "blue", "lime"):
        picture(name).save(tmp_path / f"{name}.png")
    items = [Item(str(tmp_path / f"{name}.png")) for name in ("red", "blue", "lime")]
    known = ImageResult(items[1].path, (Prediction(1, "green", 0.25),))
    asked: list[tuple[str, object]] = []

    def recall(path: str, stamp: object) -> ImageResult | None:
        asked.append((path, stamp))
        return known if path == known.path else None

    network = predictor()
    readers = Readers(network.preprocessing)
    (answers,) = answer_batches(network, items, readers, batch_size=3, recall=recall)
    readers.close()
    assert asked == [(item.path, item.stamp()) for item in items]
    assert [answered.stamp for answered in answers] == [item.stamp() for item in items]
    assert [answered.recalled for answered in answers] == [False, True, False]
    assert answers[1].result is known
    assert [answered.result.predictions[0].name for answered in answers] == ["red", "green", "green"]
    assert isinstance(network.model, MeanColour) and network.model.batches == [2]


@pytest.mark.parametrize(
    ("batch_size", "count", "alone"), [(1, 3, [True, False, False]), (2, 3, [False, False]), (2, 1, [True])]
)
def test_only_a_first_image_that_comes_alone_is_read_here(
    batch_size: int, count: int, alone: list[bool], tmp_path: Path
) -> None:
    """For a single one no process is started; those after it go to the processes, even one at a time."""
    picture("red").save(tmp_path / "x.png")
    told: list[bool] = []

    class Told(Readers):
        def flush(self, *, alone: bool = False) -> None:
            if self._group:
                told.append(alone)
            super().flush(alone=alone)

    readers = Told(predictor().preprocessing)
    items = [Item(str(tmp_path / "x.png"))] * count
    answers = list(answer_batches(predictor(), items, readers, batch_size=batch_size))
    readers.close()
    assert told == alone and sum(map(len, answers)) == count


def test_batches_of_bad_files_only(tmp_path: Path) -> None:
    assert all(result.reason for result in predictor().stream(tmp_path / name for name in "ab"))
    assert list(predictor().stream([])) == []


def test_the_best_of_equals_come_by_their_number() -> None:
    (ranked,) = predictor().rank([torch.tensor([9, 200, 200], dtype=torch.uint8).view(3, 1, 1).expand(3, 8, 8)], 9)
    assert [each.index for each in ranked] == [1, 2, 0]
    assert [each.name for each in ranked] == ["green", "blue", "red"]
    assert sum(each.probability for each in ranked) == pytest.approx(1)


def test_logits_become_probabilities_of_their_own_row() -> None:
    logits = torch.tensor([[0.0, 1.0, 3.0], [2.0, -1.0, 1.0]])
    first, second = predictor().ranked(logits, 2)
    assert [(each.index, each.name) for each in first] == [(2, "blue"), (1, "green")]
    assert [(each.index, each.name) for each in second] == [(0, "red"), (2, "blue")]
    for row, found in zip(logits.tolist(), (first, second), strict=True):
        total = sum(math.exp(value) for value in row)
        assert [each.probability for each in found] == pytest.approx(
            [math.exp(row[each.index]) / total for each in found]
        )


def test_the_network_sees_normalised_images_and_answers_in_float32() -> None:
    preprocessing = Preprocessing((8, 8), mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    pixels = torch.tensor([10, 100, 250], dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 8, 8)
    expected = [
        [
            (value / 255 - mean) / std * 10
            for value, mean, std in zip((10, 100, 250), preprocessing.mean, preprocessing.std, strict=True)
        ]
    ]
    for level, dtype in (("O0", torch.float32), ("bf16", torch.float32)):
        precision = choose_precision(level, torch.device("cpu"), training=False)
        network = TorchPredictor(MeanColour(), preprocessing, None, precision)
        assert network.precision is precision
        logits = network.logits(pixels)
        assert logits.dtype == dtype
        torch.testing.assert_close(logits, torch.tensor(expected), atol=0.2, rtol=0.01)


def test_no_number_is_no_answer(tmp_path: Path) -> None:
    class Overflowing(MeanColour):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.where(images.mean(dim=(2, 3)) > 0.9, torch.nan, 1.0)

    picture("red").save(tmp_path / "bad.png")
    picture("black").save(tmp_path / "good.png")
    network = TorchPredictor(Overflowing(), predictor().preprocessing, None)
    bad, good = network.stream([tmp_path / "bad.png", tmp_path / "good.png"])
    assert "not a finite number" in bad.reason and good.predictions
    with pytest.raises(UserError, match=r"^image 2 of the given ones: the network's answer is not a finite num"):
        network.predict([tmp_path / "good.png", tmp_path / "bad.png"])


def test_a_stream_asks_for_paths_as_it_goes_and_may_be_left(tmp_path: Path) -> None:
    picture("red").save(tmp_path / "r.png")
    asked = []

    def endless() -> Iterator[Path]:
        while True:
            asked.append(1)
            yield tmp_path / "r.png"

    stream = predictor().stream(endless(), batch_size=2)
    assert [next(stream).predictions[0].name for _ in range(5)] == ["red"] * 5
    stream.close()  # type: ignore[attr-defined]
    assert len(asked) < 60


def test_what_the_paths_raise_is_raised(tmp_path: Path) -> None:
    def broken() -> Iterator[Path]:
        yield tmp_path / "a"
        raise UserError("the list broke off")

    with pytest.raises(UserError, match="broke off"):
        list(predictor().stream(broken(), batch_size=1))


def test_others_talk_is_silenced_within_and_no_longer(caplog: pytest.LogCaptureFixture) -> None:
    talk = logging.getLogger("talkative")
    with pytest.raises(ValueError, match="is raised"), quiet():
        talk.warning("within")
        warnings.warn("within", UserWarning, stacklevel=1)
        talk.error("an error")
        raise ValueError("what goes wrong is raised")
    talk.warning("after")
    assert [record.message for record in caplog.records] == ["an error", "after"]
    with pytest.warns(UserWarning, match="after"):
        warnings.warn("after", UserWarning, stacklevel=1)


def test_predicting_changes_no_state() -> None:
    network = predictor()
    network.model.train()
    fresh = TorchPredictor(network.model, network.preprocessing, network.classes)
    assert not fresh.model.training
    assert fresh.logits(torch.zeros(2, 3, 8, 8, dtype=torch.uint8)).dtype == torch.float32
