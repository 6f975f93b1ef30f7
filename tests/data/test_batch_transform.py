import numpy as np
import pytest
import torch

from t2t_vit.data.batch_transform import (
    BatchTransform,
    Mixing,
    RandomErasing,
    Share,
    _boxes,
    inside,
    pixel_noise,
    soft_targets,
)
from t2t_vit.data.preprocessing import Preprocessing
from t2t_vit.data.seeds import Purpose, keys

INDICES = np.arange(400)


def erased(
    mode: str = "const", prob: float = 1.0, count: int = 1, epoch: int = 0, indices: np.ndarray = INDICES
) -> torch.Tensor:
    images = torch.full((len(indices), 3, 32, 24), 7.0)
    return RandomErasing(prob, mode, count)(images, 0, epoch, indices)


def test_erased_boxes_have_the_published_areas_and_shapes() -> None:
    mask = erased()[:, 0] == 0
    rows, columns = mask.any(2).sum(1), mask.any(1).sum(1)
    assert torch.equal(rows * columns, mask.sum((1, 2)))  # each a full box
    used = rows > 0
    area, ratio = (rows * columns)[used] / (32 * 24), (rows / columns)[used]
    assert used.float().mean() > 0.98
    assert 0.01 < area.min() < 0.04
    assert 0.3 < area.max() < 0.36
    assert area.mean() == pytest.approx((0.02 + 1 / 3) / 2, abs=0.015)
    assert 0.2 < ratio.min() < 0.5
    assert 2 < ratio.max() < 4.5


def test_erasing_hits_its_share_and_differs_by_epoch() -> None:
    changed = (erased(prob=0.25) != 7).flatten(1).any(1)
    assert 0.19 < changed.float().mean() < 0.31
    assert torch.equal(erased(prob=0.0), erased(prob=0.0) * 0 + 7)
    assert not torch.equal(erased(), erased(epoch=1))


@pytest.mark.parametrize("mode", ["const", "rand", "pixel"])
@pytest.mark.parametrize("count", [1, 3])
def test_what_is_erased_depends_on_the_sample_alone(mode: str, count: int) -> None:
    whole = erased(mode, 0.5, count)
    order = np.random.default_rng(0).permutation(400)[:37]
    assert torch.equal(erased(mode, 0.5, count, indices=order), whole[order])


def test_noise_is_another_in_every_epoch_and_of_every_seed() -> None:
    def noise(seed: int, epoch: int) -> torch.Tensor:
        return RandomErasing(1.0, "pixel")(torch.full((400, 3, 32, 24), 7.0), seed, epoch, INDICES)

    first = noise(0, 0)
    for other in (noise(1, 0), noise(0, 1)):
        both = (first != 7) & (other != 7)
        assert both.any() and (first[both] == other[both]).float().mean() < 0.01


def test_boxes_reach_every_border_and_colours_every_channel() -> None:
    rand = erased("rand")
    mask = (rand != 7).any(1)
    assert all(mask[edge].any() for edge in ((..., 0, slice(None)), (..., -1, slice(None)), (..., 0), (..., -1)))
    colours = torch.stack([image[:, box][:, 0] for image, box in zip(rand, mask, strict=True) if box.any()])
    assert torch.corrcoef(colours.T).fill_diagonal_(0).abs().max() < 0.2
    assert colours.std(0).tolist() == pytest.approx([1, 1, 1], abs=0.15)


def test_modes_fill_as_they_say() -> None:
    rand, pixel = erased("rand"), erased("pixel")
    for image in rand[:50]:
        assert all(len(channel.unique()) <= 2 for channel in image)
    fills = torch.cat([image[image != 7].flatten() for image in pixel])
    assert fills.mean().item() == pytest.approx(0, abs=0.02)
    assert fills.std().item() == pytest.approx(1, abs=0.02)


def test_count_splits_the_area_over_up_to_so_many_boxes() -> None:
    one, four = ((erased(count=count)[:, 0] == 0).float().mean().item() for count in (1, 4))
    assert 0.7 * one < four < 1.05 * one
    colours = {len(image[0].unique()) - 1 for image in erased("rand", count=4)[:100]}
    assert colours >= {1, 2, 3, 4}


def test_pixel_noise_is_normal_and_independent() -> None:
    images = torch.zeros(50, 3, 15, 15)
    noise = pixel_noise(keys(0, 0, np.arange(50), Purpose.ERASE_NOISE), images)
    assert noise.shape == images.shape
    flat = noise.flatten(1)
    assert flat.mean().abs() < 0.02
    assert flat.std().item() == pytest.approx(1, abs=0.02)
    assert (flat.abs() > 3).float().mean().item() == pytest.approx(0.0027, abs=0.002)
    assert torch.corrcoef(flat).fill_diagonal_(0).abs().max() < 0.2
    half = flat.shape[1] // 2
    assert (flat[:, :half] * flat[:, -half:]).mean().abs() < 0.02


def test_inside_marks_a_box() -> None:
    mask = inside(np.array([[1, 3, 0, 2], [0, 0, 0, 0]]), 4, 3, torch.device("cpu"))
    assert mask.shape == (2, 1, 4, 3)
    assert mask[0, 0].nonzero().tolist() == [[1, 0], [1, 1], [2, 0], [2, 1]]
    assert not mask[1].any()


def whole(batch: int, number: int = 0) -> Share:
    """The share of the only process."""
    return Share(number, 0, batch, batch)


def mix(batch: int, seed: int = 0, **options: object) -> tuple[torch.Tensor, torch.Tensor]:
    """Image i is i everywhere and its class i, so that shares can be read off."""
    images = torch.arange(batch, dtype=torch.float32).view(-1, 1, 1, 1).expand(-1, 2, 16, 20).contiguous()
    targets = torch.eye(batch)
    return Mixing(**options)(images, targets, whole(batch), np.random.default_rng(seed))


@pytest.mark.parametrize("mode", ["batch", "pair", "elem"])
@pytest.mark.parametrize("kind", [{"mixup": 0.8}, {"cutmix": 1.0}, {"mixup": 0.8, "cutmix": 1.0}])
@pytest.mark.parametrize("batch", [1, 2, 5, 8])
def test_targets_are_the_real_shares(mode: str, kind: dict[str, float], batch: int) -> None:
    for seed in range(6):
        images, targets = mix(batch, seed, mode=mode, **kind)
        torch.testing.assert_close(targets.sum(1), torch.ones(batch))
        expected = targets @ torch.arange(batch, dtype=torch.float32)
        torch.testing.assert_close(images.mean((1, 2, 3)), expected, atol=1e-4, rtol=1e-4)


def test_modes_draw_for_the_batch_the_pair_or_the_image() -> None:
    def shares(mode: str) -> torch.Tensor:
        return mix(10, mode=mode, mixup=1.0)[1].diagonal()

    assert len(shares("batch").unique()) == 1
    pair = shares("pair")
    torch.testing.assert_close(pair[::2], pair[1::2])
    assert len(pair.unique()) == 5
    assert len(shares("elem").unique()) == 10


def test_cutmix_pastes_one_box_and_mixup_none() -> None:
    cut = mix(4, 1, cutmix=1.0)[0]
    assert set(cut[0].unique().tolist()) <= {0.0, 1.0}
    assert torch.equal(cut[0, 0], cut[0, 1])
    assert all(len(image.unique()) == 1 for image in mix(4, 1, mixup=1.0)[0])


def test_probabilities() -> None:
    def touched(**options: float) -> tuple[float, float]:
        images, targets = mix(2000, mode="elem", **options)
        changed = targets.diagonal() < 1
        uniform = images.flatten(1).std(1) < 1e-3
        return changed.float().mean().item(), (changed & uniform).float().mean().item()

    assert touched(mixup=1.0, prob=0.3)[0] == pytest.approx(0.3, abs=0.04)
    assert touched(mixup=1.0, prob=0.0)[0] == 0
    changed, mixed = touched(mixup=1.0, cutmix=1.0, switch_prob=0.25)
    assert mixed / changed == pytest.approx(0.75, abs=0.05)
    assert touched(mixup=1.0, cutmix=1.0, switch_prob=0.0)[1] > 0.99
    batches = [mix(4, seed, mixup=1.0, prob=0.5)[1].diagonal().min().item() < 1 for seed in range(200)]
    assert 70 < sum(batches) < 130


def test_boxes_of_cutmix_have_the_shape_of_the_image_about_any_centre() -> None:
    """A quarter of the area is half of each side; what lies over a border is cut off."""
    boxes = _boxes(np.full(5000, 0.75), 16, 20, np.random.default_rng(0))
    tall, wide = boxes[:, 1] - boxes[:, 0], boxes[:, 3] - boxes[:, 2]
    within = (boxes[:, 0] > 0) & (boxes[:, 1] < 16) & (boxes[:, 2] > 0) & (boxes[:, 3] < 20)
    assert set(tall[within]) == {8} and set(wide[within]) == {10}
    assert (boxes[:, [0, 2]].min(0).tolist(), boxes[:, [1, 3]].max(0).tolist()) == ([0, 0], [16, 20])
    assert (boxes[:, [1, 3]].min(0).tolist(), boxes[:, [0, 2]].max(0).tolist()) == ([4, 5], [11, 14])
    draw = Mixing(cutmix=1.0).draw(5000, 16, 20, np.random.default_rng(0))
    area = (draw.boxes[:, 1] - draw.boxes[:, 0]) * (draw.boxes[:, 3] - draw.boxes[:, 2]) / 320
    np.testing.assert_allclose(draw.keep, 1 - area)


def test_lambda_follows_beta() -> None:
    draw = Mixing(mixup=0.2).draw(5000, 8, 8, np.random.default_rng(0))
    assert draw.keep.var() == pytest.approx(0.25 / 1.4, abs=0.01)  # of Beta(a, a): 1 / (4 (2 a + 1))


def test_smoothing_values() -> None:
    soft = soft_targets(torch.tensor([2, 0]), 4, 0.1)
    torch.testing.assert_close(soft[0], torch.tensor([0.025, 0.025, 0.925, 0.025]))
    torch.testing.assert_close(soft.sum(1), torch.ones(2))
    assert soft_targets(torch.tensor([1]), 3, 0.0).tolist() == [[0, 1, 0]]


def transformed(
    epoch: int = 0, first: int = 0, number: int = 0, **options: object
) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (7, 3, 8, 8), np.uint8))
    transform = BatchTransform(Preprocessing((8, 8)), 5, **options)
    targets = torch.tensor([0, 1, 2, 3, 4, 0, 1])
    return transform(images, targets, epoch, np.arange(first, first + 7), whole(7, number))


def test_the_whole_transform_repeats_and_goes_off() -> None:
    options = {
        "erasing": RandomErasing(0.5),
        "mixing": Mixing(0.8, 1.0, off_epoch=2),
        "label_smoothing": 0.1,
        "seed": 3,
    }
    images, targets = transformed(**options)
    again = transformed(**options)
    assert torch.equal(images, again[0])
    assert torch.equal(targets, again[1])
    assert images.dtype == targets.dtype == torch.float32
    torch.testing.assert_close(targets.sum(1), torch.ones(7))
    assert not torch.equal(images, transformed(first=7, **options)[0])
    assert not torch.equal(images, transformed(epoch=1, **options)[0])
    assert not torch.equal(targets, transformed(number=1, **options)[1])
    for epoch in (2, 3):
        smooth = soft_targets(torch.tensor([0, 1, 2, 3, 4, 0, 1]), 5, 0.1)
        assert torch.equal(transformed(epoch, **options)[1], smooth)
    always = options | {"mixing": Mixing(0.8, 1.0)}
    assert not torch.equal(transformed(3, **always)[1], smooth)


@pytest.mark.parametrize("part", [{"erasing": RandomErasing(1.0)}, {"mixing": Mixing(0.8, 1.0)}])
def test_each_part_draws_by_seed_and_epoch(part: dict[str, object]) -> None:
    first = transformed(seed=3, **part)[0]
    assert torch.equal(first, transformed(seed=3, **part)[0])
    assert not torch.equal(first, transformed(seed=4, **part)[0])
    assert not torch.equal(first, transformed(epoch=1, seed=3, **part)[0])
    erases = "erasing" in part  # by the numbers of the samples; mixing goes by the batch
    assert torch.equal(first, transformed(number=1, seed=3, **part)[0]) == erases
    assert torch.equal(first, transformed(first=7, seed=3, **part)[0]) != erases


def test_smoothing_is_that_of_the_transform() -> None:
    targets = transformed(label_smoothing=0.2)[1]
    torch.testing.assert_close(targets[2], torch.tensor([0.04, 0.04, 0.84, 0.04, 0.04]))


def test_without_anything_it_only_normalises() -> None:
    images, targets = transformed()
    raw = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (7, 3, 8, 8), np.uint8))
    assert torch.equal(images, Preprocessing((8, 8)).normalize(raw))
    assert torch.equal(targets.argmax(1), torch.tensor([0, 1, 2, 3, 4, 0, 1]))


def test_wrong_settings_name_the_key() -> None:
    for make, key in (
        (lambda: RandomErasing(mode="x"), "re_mode"),
        (lambda: RandomErasing(max_count=0), "re_count"),
        (lambda: Mixing(mode="x"), "mixup_mode"),
    ):
        with pytest.raises(ValueError, match=key):
            make()


@pytest.mark.gpu
def test_cuda_gives_the_cpus_numbers() -> None:
    options = {"erasing": RandomErasing(0.5, "pixel", 2), "mixing": Mixing(0.8, 1.0, mode="elem"), "seed": 1}
    transform = BatchTransform(Preprocessing((8, 8)), 5, **options)
    images, targets = torch.randint(0, 256, (7, 3, 8, 8), dtype=torch.uint8), torch.arange(7) % 5
    here = transform(images, targets, 0, np.arange(7), whole(7))
    there = transform(images.cuda(), targets.cuda(), 0, np.arange(7), whole(7))
    for a, b in zip(here, there, strict=True):
        torch.testing.assert_close(a, b.cpu(), atol=1e-4, rtol=1e-4)
