"""Tensors into models of another head, size or channel count."""

from pathlib import Path

import pytest
import torch

import t2t_vit
from t2t_vit.errors import UserError
from t2t_vit.model import T2TViT, create_model
from t2t_vit.model.position import sinusoid_table
from t2t_vit.weights import fit


def model(arch: str = "t2t_vit_7", num_classes: int = 10, image_size: int = 32, in_chans: int = 3) -> T2TViT:
    return create_model(arch, num_classes=num_classes, image_size=image_size, in_chans=in_chans).eval()


def file_of(network: T2TViT, path: Path, **changes: torch.Tensor | None) -> Path:
    state = {**network.state_dict(), **{name.replace("__", "."): tensor for name, tensor in changes.items()}}
    torch.save({"state_dict": {name: tensor for name, tensor in state.items() if tensor is not None}}, path)
    return path


def test_the_same_network_gives_the_same_answers(tmp_path: Path) -> None:
    source, target = model(), model()
    report = t2t_vit.load_weights(target, file_of(source, tmp_path / "w.pth"))
    assert set(report.loaded) == set(source.state_dict())
    assert not (report.resized or report.adapted or report.new or report.unused)
    assert str(report) == f"{len(source.state_dict())} tensors loaded (raw weights)"
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(source(images), target(images))


def test_half_precision_is_widened(tmp_path: Path) -> None:
    source, target = model(), model()
    torch.save({name: tensor.half() for name, tensor in source.state_dict().items()}, tmp_path / "w.pth")
    t2t_vit.load_weights(target, tmp_path / "w.pth")
    assert target.norm.weight.dtype == torch.float32
    assert torch.equal(target.cls_token, source.cls_token.half().float())


def test_a_head_of_another_size_is_left_as_it_was(tmp_path: Path) -> None:
    source, target = model(num_classes=1000), model(num_classes=5)
    before = target.head.weight.clone()
    report = t2t_vit.load_weights(target, file_of(source, tmp_path / "w.pth"))
    assert report.new == ("head.weight", "head.bias") and "newly initialised" in str(report)
    assert torch.equal(target.head.weight, before)
    assert torch.equal(target.cls_token, source.cls_token)


def test_weights_without_a_head(tmp_path: Path) -> None:
    path = file_of(model(), tmp_path / "w.pth", head__weight=None, head__bias=None)
    assert t2t_vit.load_weights(model(), path).new == ("head.weight", "head.bias")


def test_another_image_size_gets_its_own_position_table(tmp_path: Path) -> None:
    source, target = model(image_size=32), model(image_size=64)
    report = t2t_vit.load_weights(target, file_of(source, tmp_path / "w.pth"))
    assert report.resized == ("pos_embed",)
    assert torch.equal(target.pos_embed, sinusoid_table(17, 256))


def test_a_table_of_the_same_length_is_taken_from_the_file(tmp_path: Path) -> None:
    path = file_of(model(), tmp_path / "w.pth", pos_embed=torch.full((1, 5, 256), 0.25))
    target = model()
    assert "pos_embed" in t2t_vit.load_weights(target, path).loaded
    assert (target.pos_embed == 0.25).all()


# The transformer's scale depends on the length of a window, so with it the answers are only near.
@pytest.mark.parametrize(("arch", "tolerance"), [("t2t_vit_7", 1e-5), ("t2t_vit_t_14", 1e-2)])
def test_three_channels_folded_to_one_answer_alike_on_grey_images(arch: str, tolerance: float) -> None:
    source, target = model(arch), model(arch, in_chans=1)
    report = fit(target, source.state_dict(), path="w.pth")
    assert len(report.adapted) == 3
    grey = torch.randn(2, 1, 32, 32)
    assert torch.allclose(target(grey), source(grey.expand(-1, 3, -1, -1)), atol=tolerance)


def test_one_channel_spread_to_three_and_four_answers_alike_on_grey_images() -> None:
    source = model(in_chans=1)
    grey = torch.randn(2, 1, 32, 32)
    for in_chans in (3, 4):
        target = model(in_chans=in_chans)
        fit(target, source.state_dict(), path="w.pth")
        assert torch.allclose(target(grey.expand(-1, in_chans, -1, -1)), source(grey), atol=1e-5)


def test_tensors_without_a_place_are_reported(tmp_path: Path) -> None:
    path = file_of(model(), tmp_path / "w.pth", aux_head__weight=torch.zeros(3), aux_head__bias=torch.zeros(3))
    assert t2t_vit.load_weights(model(), path).unused == ("aux_head.weight", "aux_head.bias")


def test_missing_tensors_are_named_and_nothing_is_changed(tmp_path: Path) -> None:
    target = model()
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    gone = {f"blocks__{i}__norm1__bias": None for i in range(5)}
    with pytest.raises(UserError, match=r"lacks 5 of the \d+ tensors of t2t_vit_7 \(blocks.0.norm1.bias, .*, \.\.\.\)"):
        t2t_vit.load_weights(target, file_of(model(), tmp_path / "w.pth", **gone))
    with pytest.raises(UserError, match=r"does not fit t2t_vit_7: norm.bias is \(7,\) there and \(256,\) in the model"):
        t2t_vit.load_weights(target, file_of(model(), tmp_path / "w.pth", norm__bias=torch.zeros(7)))
    assert all(torch.equal(before[name], tensor) for name, tensor in target.state_dict().items())


def test_weights_of_a_training_that_diverged(tmp_path: Path) -> None:
    path = file_of(model(), tmp_path / "w.pth", norm__bias=torch.full((256,), float("nan")))
    with pytest.raises(UserError, match=r"norm\.bias is not finite"):
        t2t_vit.load_weights(model(), path)


def test_another_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="tensors of t2t_vit_t_14"):
        t2t_vit.load_weights(model("t2t_vit_t_14"), file_of(model(), tmp_path / "w.pth"))


def test_the_position_table_resized_as_the_authors_do(tmp_path: Path) -> None:
    source, target = model(image_size=64), model(image_size=(96, 32))  # type: ignore[arg-type]
    report = t2t_vit.load_weights(target, file_of(source, tmp_path / "w.pth"), position="resize")
    assert report.resized == ("pos_embed",)
    assert "pos_embed 1x17x256 -> 1x13x256 resized to this image size" in str(report)
    assert torch.equal(target.pos_embed[:, 0], source.pos_embed[:, 0])
    square = source.pos_embed[:, 1:].reshape(1, 4, 4, 256).permute(0, 3, 1, 2)
    expected = torch.nn.functional.interpolate(square, size=(6, 2), mode="bicubic", align_corners=False)
    assert torch.equal(target.pos_embed[:, 1:], expected.permute(0, 2, 3, 1).reshape(1, 12, 256))


def test_a_large_checkpoint_in_a_small_model_and_back(tmp_path: Path) -> None:
    large, small, again = model(image_size=96), model(image_size=32), model(image_size=96)
    t2t_vit.load_weights(small, file_of(large, tmp_path / "large.pth"))
    report = t2t_vit.load_weights(again, file_of(small, tmp_path / "small.pth"))
    assert [str(change) for change in report.changes] == ["pos_embed 1x5x256 -> 1x37x256"]
    assert all(torch.equal(tensor, large.state_dict()[name]) for name, tensor in again.state_dict().items())


def test_positions_that_form_no_square_and_an_unknown_way(tmp_path: Path) -> None:
    path = file_of(model(image_size=(64, 96)), tmp_path / "w.pth")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="form no square, so they cannot be resized; rebuild them"):
        t2t_vit.load_weights(model(), path, position="resize")
    assert t2t_vit.load_weights(model(), path).resized == ("pos_embed",)
    with pytest.raises(UserError, match="position 'stretch' is not known"):
        t2t_vit.load_weights(model(), path, position="stretch")  # type: ignore[arg-type]


def test_the_report_tells_from_what_to_what() -> None:
    report = fit(model(in_chans=1), model().state_dict(), path="w.pth")
    assert "tokens_to_token.attention1.kqv.weight 192x147 -> 192x49 adapted to the input channels" in str(report)


def test_convolutional_tokens_for_one_channel_and_four() -> None:
    grey = torch.randn(2, 1, 32, 32)
    for old, in_chans in ((3, 1), (1, 4)):
        source, target = model("t2t_vit_c_14", in_chans=old), model("t2t_vit_c_14", in_chans=in_chans)
        assert fit(target, source.state_dict(), path="w.pth").adapted == ("tokens_to_token.soft_split0.weight",)
        assert torch.allclose(
            target(grey.expand(-1, in_chans, -1, -1)), source(grey.expand(-1, old, -1, -1)), atol=1e-5
        )


def test_only_a_part_when_asked(tmp_path: Path) -> None:
    source, target = model(), model()
    gone = {f"blocks__{i}__norm1__bias": None for i in range(5)}
    path = file_of(source, tmp_path / "w.pth", norm__bias=torch.zeros(7), **gone)
    report = t2t_vit.load_weights(target, path, partial=True)
    assert set(report.new) == {"norm.bias", *(f"blocks.{i}.norm1.bias" for i in range(5))}
    assert torch.equal(target.cls_token, source.cls_token)
    torch.save({"conv.weight": torch.ones(2)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="holds no tensor of t2t_vit_7"):
        t2t_vit.load_weights(target, tmp_path / "other.pth", partial=True)
