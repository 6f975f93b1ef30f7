import pickle
import random

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance

from t2t_vit.data.image_transform import (
    Policy,
    TrainTransform,
    _operations,
    build_policy,
    check_policy,
    crop_box,
    jitter,
)
from t2t_vit.data.seeds import Purpose, keys
from t2t_vit.errors import UserError

KEYS = keys(0, 0, np.arange(200), Purpose.TRANSFORM)
ROWS = TrainTransform((8, 8)).numbers(KEYS)
POLICIES = ("rand-m9-mstd0.5-inc1", "original", "v0", "augmix-m5-w4", "3a")


def photo(mode: str = "RGB", size: tuple[int, int] = (40, 30)) -> Image.Image:
    pixels = np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(pixels).convert(mode)


@pytest.mark.parametrize(("in_chans", "mode"), [(1, "L"), (3, "RGB"), (4, "RGBA")])
def test_shape_type_and_repeatability(in_chans: int, mode: str) -> None:
    transform = TrainTransform((20, 24), in_chans, color_jitter=0.4)
    first, again, other = (transform(photo(mode), key) for key in (5, 5, 6))
    assert first.shape == (in_chans, 20, 24)
    assert first.dtype == torch.uint8
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(pickle.loads(pickle.dumps(transform))(photo(mode), 5), first)


def test_crops_lie_within_and_have_the_wanted_areas_and_shapes() -> None:
    rows = TrainTransform((8, 8)).numbers(KEYS)
    boxes = np.array([crop_box((200, 150), 1.0, 0.25, row) for row in rows])
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    assert boxes.min() >= 0
    assert (boxes[:, 2] <= 200).all()
    assert (boxes[:, 3] <= 150).all()
    area = width * height / 30000
    assert 0.24 < area.min() < 0.3
    assert area.max() > 0.75
    assert 0.74 < (width / height).min() < 0.8
    assert 1.25 < (width / height).max() < 1.35


@pytest.mark.parametrize("size", [(1, 1), (1, 900), (900, 1), (28, 28), (2, 3)])
def test_odd_images_and_whole_crops(size: tuple[int, int]) -> None:
    for row in TrainTransform((8, 8)).numbers(KEYS):
        left, top, right, bottom = crop_box(size, 1.0, 1.0, row)
        assert 0 <= left < right <= size[0]
        assert 0 <= top < bottom <= size[1]
        if size[0] == size[1]:
            assert (right - left, bottom - top) == size
    assert TrainTransform((8, 8))(photo(size=size), 0).shape == (3, 8, 8)


def test_a_crop_by_its_numbers() -> None:
    """The area of the first attempt that fits, and the places of its corner, each by its own number."""
    numbers = [0.5] * 31
    numbers[3], numbers[4] = 0.25, 0.75  # top and left
    numbers[11], numbers[12] = 0.2, 0.5  # area (0.25 + 0.75 * 0.2) * 20,000, a square
    assert crop_box((200, 100), 1.0, 0.25, numbers) == (84, 3, 84 + 89, 3 + 89)
    numbers[11] = 1.0  # 141 x 141 does not fit
    numbers[13], numbers[14] = 0.0, 1.0  # 5,000, 4 / 3 as wide as high
    width, height = round((5000 * 4 / 3) ** 0.5), round((5000 * 3 / 4) ** 0.5)
    left, top = int(0.75 * (201 - width)), int(0.25 * (101 - height))
    assert crop_box((200, 100), 1.0, 0.25, numbers) == (left, top, left + width, top + height)
    areas = [
        (box[2] - box[0]) * (box[3] - box[1]) / 90_000 for box in (crop_box((300, 300), 1.0, 0.4, row) for row in ROWS)
    ]
    assert np.mean(areas) == pytest.approx(0.7, abs=0.06)  # uniform in 0.4..1, but for what does not fit


def test_a_wide_input_takes_wide_crops() -> None:
    rows = TrainTransform((8, 16)).numbers(KEYS)
    boxes = np.array([crop_box((200, 100), 2.0, 0.1, row) for row in rows])
    ratio = (boxes[:, 2] - boxes[:, 0]) / (boxes[:, 3] - boxes[:, 1])
    assert ratio.min() > 1.4
    assert ratio.max() < 2.8


def test_min_crop_hflip_and_interpolation_have_their_effects() -> None:
    image = photo(size=(16, 16))
    whole = {"min_crop": 1.0, "train_interpolation": "nearest"}
    original = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    plain = [TrainTransform((16, 16), hflip=0.0, **whole)(image, int(key)) for key in KEYS[:20]]
    assert all(torch.equal(result, original) for result in plain)
    flipped = [TrainTransform((16, 16), hflip=1.0, **whole)(image, int(key)) for key in KEYS[:20]]
    assert all(torch.equal(result, original.flip(2)) for result in flipped)
    some = sum(torch.equal(TrainTransform((16, 16), **whole)(image, int(key)), original) for key in KEYS)
    assert 70 < some < 130

    def sized(interpolation: str, key: int) -> bytes:
        transform = TrainTransform((24, 24), min_crop=1.0, hflip=0.0, train_interpolation=interpolation)
        return transform(image, key).numpy().tobytes()

    either = {sized("bilinear", 0), sized("bicubic", 0)}
    assert len(either) == 2
    assert {sized("random", int(key)) for key in KEYS[:20]} == either


def test_jitter_scales_and_keeps_alpha() -> None:
    image = Image.new("RGBA", (2, 2), (100, 100, 100, 77))
    brighter = jitter(image, 0.5, [1.0, 0.5, 0.5, 0.1, 0.2, 0.3])
    assert brighter.getpixel((0, 0)) == (150, 150, 150, 77)
    unchanged = jitter(image, 0.5, [0.5, 0.5, 0.5, 0.3, 0.2, 0.1])
    assert unchanged.getpixel((0, 0)) == (100, 100, 100, 77)


def test_jitter_has_three_kinds_in_the_order_of_its_numbers() -> None:
    image = photo()
    kinds = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    for number, kind in enumerate(kinds):
        numbers = [0.5] * 6
        numbers[number] = 0.9
        assert jitter(image, 0.5, numbers).tobytes() == kind(image).enhance(1.4).tobytes()
    for places in ((0.1, 0.2, 0.3), (0.3, 0.2, 0.1), (0.2, 0.3, 0.1)):
        expected = image
        for _, factor, kind in sorted(zip(places, (1.4, 0.7, 1.2), kinds, strict=True), key=lambda each: each[0]):
            expected = kind(expected).enhance(factor)
        assert jitter(image, 0.5, [0.9, 0.2, 0.7, *places]).tobytes() == expected.tobytes()


def test_a_policy_is_built_of_the_transforms_own_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[tuple[object, ...]] = []

    def build(*settings: object) -> Policy:
        built.append(settings)
        return lambda image: image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)

    monkeypatch.setattr("t2t_vit.data.image_transform.build_policy", build)
    settings = {"mean": (0.1, 0.2, 0.3), "aa_interpolation": "nearest", "color_jitter": 0.4}
    augmented = TrainTransform((40, 60), auto_augment="3a", train_interpolation="bicubic", **settings)(photo(), 5)
    assert built == [("3a", 40, (0.1, 0.2, 0.3), "nearest")]
    plain = TrainTransform((40, 60), train_interpolation="bicubic")(photo(), 5)
    assert torch.equal(augmented, plain.flip(1))  # the policy takes the place of the jitter


@pytest.mark.parametrize("policy", POLICIES)
def test_a_policy_has_the_fill_the_shift_and_the_interpolation_that_were_asked_for(policy: str) -> None:
    operations = list(_operations(build_policy(policy, 40, (0.1, 0.2, 0.6), "bicubic")))
    assert operations
    for operation in operations:
        assert operation.hparams["translate_const"] == 18
        assert operation.kwargs["fillcolor"] == (26, 51, 153)
        assert operation.kwargs["resample"] == Image.Resampling.BICUBIC
    (first, *_) = _operations(build_policy(policy, 40, (0.1,), "random"))
    assert first.kwargs["fillcolor"] == 26 and isinstance(first.kwargs["resample"], tuple)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(("in_chans", "mode"), [(1, "L"), (3, "RGB")])
def test_policies_repeat_and_leave_the_global_generators_alone(policy: str, in_chans: int, mode: str) -> None:
    transform = TrainTransform((20, 20), in_chans, auto_augment=policy)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    results = [transform(photo(mode), int(key)) for key in KEYS[:30]]
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before
    random.seed(1)
    np.random.seed(1)
    assert all(
        torch.equal(transform(photo(mode), int(key)), result) for key, result in zip(KEYS, results, strict=False)
    )
    plain = TrainTransform((20, 20), in_chans)
    assert (
        sum(torch.equal(plain(photo(mode), int(key)), result) for key, result in zip(KEYS, results, strict=False)) < 25
    )


def test_the_strongest_posterize_is_black_and_no_error() -> None:
    transform = TrainTransform((20, 20), auto_augment="rand-m10-n3-p1.0-inc1-mmax20")
    for key in KEYS:
        transform(photo(), int(key))


def test_policy_interpolation_is_its_own() -> None:
    kinds = {}
    for interpolation in ("bilinear", "bicubic"):
        transform = TrainTransform((20, 20), auto_augment="rand-m9-inc1", aa_interpolation=interpolation)
        kinds[interpolation] = [transform(photo(), int(key)) for key in KEYS[:30]]
    differing = sum(not torch.equal(a, b) for a, b in zip(*kinds.values(), strict=True))
    assert 0 < differing < 30


@pytest.mark.parametrize(
    "text",
    ["rand", "rand-m9-mstd0.5-inc1", "rand-m9-n3-p0.7-tweights-mmax20", "augmix-m5-w4-d2-a1-b1", "v0r-mstd0.5", "3a"],
)
def test_the_grammar_accepts_timms(text: str) -> None:
    check_policy(text)


@pytest.mark.parametrize(
    "text", ["randd-m9", "rand-m9-foo", "rand-m9.5", "rand-x3", "original-m9", "augmix-d-1", "rand-", "v1"]
)
def test_the_grammar_refuses_the_rest(text: str) -> None:
    with pytest.raises(UserError, match="auto_augment"):
        TrainTransform((8, 8), auto_augment=text)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"train_interpolation": "cubic"}, "train_interpolation is 'cubic'; choose from bilinear"),
        ({"aa_interpolation": "cubic"}, "aa_interpolation"),
        ({"min_crop": 0.0}, "min_crop"),
        ({"auto_augment": "3a", "in_chans": 4}, "grey and RGB"),
    ],
)
def test_wrong_settings(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        TrainTransform((8, 8), **wrong)


@pytest.mark.parametrize("size", [(224, 224), (64, 64), (96, 160)])
@pytest.mark.parametrize("min_crop", [0.08, 0.5, 1.0])
def test_a_reduced_image_keeps_twice_the_pixels_that_any_crop_needs(size: tuple[int, int], min_crop: float) -> None:
    transform = TrainTransform(size, min_crop=min_crop)
    rng = np.random.default_rng(0)
    for width, height in ((4032, 3024), (3024, 4032), (20_990, 29_700), (10_000, 500), (640, 480), (1, 1), (300, 9000)):
        factor = transform.reduction((width, height))
        assert factor >= 1
        if factor == 1:
            continue
        small = (-(-width // factor), -(-height // factor))
        for numbers in rng.random((200, 40)).tolist():
            left, top, right, bottom = crop_box(small, size[1] / size[0], min_crop, numbers)
            assert right - left >= 2 * size[1] - 1
            assert bottom - top >= 2 * size[0] - 1


def test_photographs_are_not_reduced_for_the_usual_crop() -> None:
    usual = TrainTransform((224, 224))
    assert [usual.reduction(size) for size in ((500, 375), (1920, 1080), (4032, 3024))] == [1, 1, 1]
    assert TrainTransform((64, 64)).reduction((4032, 3024)) == 4
