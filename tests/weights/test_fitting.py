"""Tensors into models of another head, size or channel count."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch

import t2t_vit
from t2t_vit.errors import UserError
from t2t_vit.model import T2TViT, create_model
from t2t_vit.model.inputs import sinusoid_table
from t2t_vit.weights import fit
from t2t_vit.weights.description import Channels, channel_layers
from t2t_vit.weights.fitting import adapt_channels


def model(arch: str = "t2t_vit_7", num_classes: int = 10, image_size: int = 32, in_chans: int = 3) -> T2TViT:
    return create_model(arch, num_classes=num_classes, image_size=image_size, in_chans=in_chans).eval()


def filled(network: T2TViT, seed: int = 1) -> T2TViT:
    """Every tensor with values of its own, biases, norms and positions among them."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in network.state_dict().values():
            tensor.copy_(torch.rand(tensor.shape, generator=generator) - 0.5)
    return network


def assert_arrived(target: T2TViT, tensors: Mapping[str, torch.Tensor], *, but: Sequence[str] = ()) -> None:
    for name, tensor in target.state_dict().items():
        assert torch.equal(tensor, tensors[name]) == (name not in but), name


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


def test_every_tensor_arrives(tmp_path: Path) -> None:
    source, target = filled(model()), filled(model(), seed=2)
    t2t_vit.load_weights(target, file_of(source, tmp_path / "w.pth"))
    assert_arrived(target, source.state_dict())


def test_the_copy_that_is_asked_for(tmp_path: Path) -> None:
    raw, ema, target = filled(model(), 1), filled(model(), 2), model()
    torch.save({"state_dict": raw.state_dict(), "state_dict_ema": ema.state_dict()}, tmp_path / "w.pth")
    for which, chosen, expected in (("auto", "ema", ema), ("raw", "raw", raw), ("ema", "ema", ema)):
        report = t2t_vit.load_weights(target, tmp_path / "w.pth", which=which)  # type: ignore[arg-type]
        assert report.chosen == chosen and f"({chosen} weights)" in str(report)
        assert_arrived(target, expected.state_dict())


def test_every_tensor_is_reported_once(tmp_path: Path) -> None:
    """Another head, size and channel count at once, and a tensor without a place."""
    source, target = filled(model(num_classes=7, image_size=64)), filled(model(in_chans=1), 2)
    before = target.head.bias.clone()
    path = file_of(source, tmp_path / "w.pth", aux__weight=torch.zeros(3))
    report = t2t_vit.load_weights(target, path)
    first = tuple(f"tokens_to_token.attention1.{name}" for name in ("norm1.weight", "norm1.bias", "kqv.weight"))
    assert report.new == ("head.weight", "head.bias") and torch.equal(target.head.bias, before)
    assert (report.resized, report.unused) == (("pos_embed",), ("aux.weight",))
    assert set(report.adapted) == set(first)
    assert [change.name for change in report.changes] == ["pos_embed", *report.adapted]
    every = [*report.loaded, *report.new, *report.resized, *report.adapted]
    assert sorted(every) == sorted(target.state_dict())
    state = target.state_dict()
    assert all(torch.equal(state[name], source.state_dict()[name]) for name in report.loaded)
    assert all(
        torch.equal(
            state[change.name],
            adapt_channels(source.state_dict()[change.name], 1, channel_layers("t2t_vit_7")[change.name]),
        )
        for change in report.changes[1:]
    )
    assert str(report).startswith(f"{len(report.loaded)} tensors loaded (raw weights); pos_embed 1x17x256 -> 1x5x256 ")
    assert str(report).endswith("head.weight, head.bias newly initialised; aux.weight unused")


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


def test_a_head_is_taken_whole_or_not_at_all(tmp_path: Path) -> None:
    target = filled(model(), 2)
    before = {name: target.state_dict()[name].clone() for name in ("head.weight", "head.bias")}
    for changes in ({"head__bias": None}, {"head__bias": torch.zeros(7)}, {"head__weight": torch.zeros(7, 256)}):
        report = t2t_vit.load_weights(target, file_of(filled(model()), tmp_path / "w.pth", **changes))
        assert report.new == ("head.weight", "head.bias")
        assert all(torch.equal(target.state_dict()[name], tensor) for name, tensor in before.items())


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


def test_channels_of_the_result_are_those_of_the_file_in_turn() -> None:
    """Two channels of two entries each: a, b in the first, c, d in the second."""
    vector = torch.tensor([1.0, 2.0, 30.0, 40.0])
    layer = Channels(axis=0, window=2)
    assert adapt_channels(vector, 5, layer).tolist() == [1, 2, 30, 40, 1, 2, 30, 40, 1, 2]
    assert adapt_channels(vector, 1, layer).tolist() == [15.5, 21]
    matrix = torch.stack([vector, -vector])
    layer = Channels(axis=1, window=2)
    assert adapt_channels(matrix, 4, layer).tolist() == [  # half of each, since there are twice as many
        [0.5, 1, 15, 20, 0.5, 1, 15, 20],
        [-0.5, -1, -15, -20, -0.5, -1, -15, -20],
    ]
    assert adapt_channels(matrix, 1, layer).tolist() == [[31, 42], [-31, -42]]


def test_a_shape_that_differs_elsewhere_is_of_no_other_channel_count() -> None:
    layer = Channels(axis=1, window=49)
    assert layer.count((192, 4 * 49), (192, 3 * 49)) == 4
    for shape in ((191, 4 * 49), (192, 4 * 49 + 1), (192, 4 * 49, 1), (192,)):
        assert layer.count(shape, (192, 3 * 49)) is None


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


def test_large_but_finite_weights_are_taken(tmp_path: Path) -> None:
    """Their sum is infinite in float32."""
    large = torch.full((256,), 3e38)
    target = model()
    t2t_vit.load_weights(target, file_of(model(), tmp_path / "w.pth", norm__bias=large))
    assert torch.equal(target.norm.bias, large)


def test_a_position_table_of_another_width_is_no_other_size(tmp_path: Path) -> None:
    for table in (torch.zeros(1, 17, 7), torch.zeros(17, 256)):
        with pytest.raises(UserError, match=r"does not fit t2t_vit_7: pos_embed is \("):
            t2t_vit.load_weights(model(), file_of(model(), tmp_path / "w.pth", pos_embed=table))


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
    with pytest.raises(
        UserError, match=r"form no square, which cannot be resized; position=.rebuild. computes them again"
    ):
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
    grey = t2t_vit.load_weights(model(image_size=64, in_chans=1), path, partial=True)  # what can be fitted still is
    assert (len(grey.adapted), grey.resized, grey.new) == (3, ("pos_embed",), report.new)
    torch.save({"conv.weight": torch.ones(2)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="holds no tensor of t2t_vit_7"):
        t2t_vit.load_weights(target, tmp_path / "other.pth", partial=True)
