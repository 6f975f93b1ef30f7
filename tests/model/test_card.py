"""The model card of a saved folder: what the hub reads of it, and whose it is."""

from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard

from t2t_vit import UserError, create_model
from t2t_vit.model import T2TViT
from t2t_vit.model.card import CARD, WRITTEN_HERE, keeps_own_card

NUMBERS = {"top1": 0.875, "macro_f1": 0.75, "count": 2000}


@pytest.fixture(scope="module")
def model() -> T2TViT:
    return create_model("t2t_vit_quickstart", num_classes=3, image_size=(24, 32), in_chans=1).eval()


def test_the_hub_reads_what_is_known(model: T2TViT, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path, classes=["a`b", "ü", "c\nd"], metrics=NUMBERS, dataset="birds: mine", license="mit")
    card = ModelCard.load(tmp_path / CARD)
    assert card.data.library_name == "t2t_vit"
    assert card.data.pipeline_tag == "image-classification"
    assert card.data.license == "mit"
    assert [(each.metric_name, each.metric_value, each.dataset_name) for each in card.data.eval_results] == [
        ("top-1 accuracy", 0.875, "birds: mine"),
        ("macro F1", 0.75, "birds: mine"),
    ]
    assert "images of 24 x 32 pixels (grey), 3 classes" in card.text
    assert "| top-1 accuracy | 0.8750 |" in card.text
    assert "| images | 2,000 |" in card.text
    assert "`a'b`, `ü`, `c\\nd`" in card.text
    assert f'from_pretrained("{tmp_path.name}")' in card.text
    assert str(tmp_path) not in card.text


def test_what_is_not_known_is_not_there(model: T2TViT, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    text = (tmp_path / CARD).read_text()
    assert set(yaml.safe_load(text.split("---")[1])) == {"library_name", "pipeline_tag", "tags"}
    assert "Measured" not in text
    assert "Classes" not in text


def test_numbers_without_a_data_set_stay_in_the_text(model: T2TViT, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path, metrics={"loss": 0.5})
    text = (tmp_path / CARD).read_text()
    assert "model-index" not in text
    assert "| cross-entropy | 0.5000 |" in text


def test_a_card_of_somebody_elses_stays(model: T2TViT, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path, metrics={"top1": 0.5})
    model.save_pretrained(tmp_path, metrics=NUMBERS)
    ours = (tmp_path / CARD).read_text()
    assert "0.8750" in ours
    theirs = ours.replace(WRITTEN_HERE, "my own words")
    (tmp_path / CARD).write_text(theirs)
    model.save_pretrained(tmp_path, metrics={"top1": 0.25})
    assert (tmp_path / CARD).read_text() == theirs


def test_a_wrong_name_writes_nothing(model: T2TViT, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"'acc' is not one of top1, top5"):
        model.save_pretrained(tmp_path / "new", metrics={"acc": 1.0})
    assert not (tmp_path / "new").exists()


def test_what_is_no_card_of_ours_stays(tmp_path: Path) -> None:
    assert not keeps_own_card(tmp_path)
    (tmp_path / CARD).write_bytes(WRITTEN_HERE.encode() + bytes(2**20))  # longer than any of ours
    assert keeps_own_card(tmp_path)
    (tmp_path / CARD).unlink()
    (tmp_path / CARD).mkdir()
    assert keeps_own_card(tmp_path)
