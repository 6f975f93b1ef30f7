import os
import pickle
import signal

import numpy as np
import pytest
import torch
from PIL import Image

from t2t_vit.data.batch_transform import BatchTransform, Mixing, RandomErasing
from t2t_vit.data.datasets import open_images
from t2t_vit.data.decode import DecodeError
from t2t_vit.data.image_transform import TrainTransform
from t2t_vit.data.images import ArrayImages, ImageSet
from t2t_vit.data.loader import BadImages, EvalLoader, TrainLoader, repeated_order
from t2t_vit.data.preprocessing import Preprocessing
from t2t_vit.data.samples import Request, TrainSamples
from t2t_vit.data.workers import WorkerSilentError
from t2t_vit.errors import UserError

PREPROCESSING = Preprocessing((8, 8), 1.0, (0.5,), (0.5,), 1)


class Numbered(ArrayImages):
    """Image i is of value i everywhere, class i; some are broken."""

    def __init__(self, count: int, broken: tuple[int, ...] = ()) -> None:
        values = np.arange(count, dtype=np.uint8)
        pixels = np.broadcast_to(values[:, None, None], (count, 8, 8)).copy()
        super().__init__(pixels, np.arange(count), [str(i) for i in range(count)], "L", "numbered")
        self.broken = broken

    def read(self, index: int) -> Image.Image:
        if index in self.broken:
            raise DecodeError("the file is truncated")
        return super().read(index)


def loader(images: ImageSet, batch_size: int = 4, seed: int = 0, **options: object) -> TrainLoader:
    transform = TrainTransform((8, 8), 1, hflip=0.0)
    batch = BatchTransform(PREPROCESSING, len(images.classes), RandomErasing(0.0), seed=seed)
    return TrainLoader(images, transform, batch, batch_size=batch_size, **options)


def classes(batches: object) -> list[list[int]]:
    return [targets.argmax(1).tolist() for _, targets in batches]


def test_an_epoch_visits_each_image_once_in_its_own_order() -> None:
    train = loader(Numbered(22))
    assert len(train) == 5
    first, second = classes(train.epoch(0)), classes(train.epoch(1))
    assert [len(batch) for batch in first] == [4] * 5
    assert len({i for batch in first for i in batch}) == 20
    assert first == classes(train.epoch(0)) != second
    assert first != classes(loader(Numbered(22), seed=1).epoch(0))
    for images, targets in train.epoch(0):
        values = PREPROCESSING.denormalize(images)[:, 0, 0, 0]
        assert values.tolist() == targets.argmax(1).tolist()
        assert images.dtype == targets.dtype == torch.float32


def test_start_skips_without_reading() -> None:
    read: list[int] = []

    class Counting(Numbered):
        def read(self, index: int) -> Image.Image:
            read.append(index)
            return super().read(index)

    train = loader(Counting(20))
    everything = classes(train.epoch(3))
    read.clear()
    assert classes(train.epoch(3, start=3)) == everything[3:]
    assert len(read) == 8
    assert classes(train.epoch(3, start=5)) == []


def test_the_images_of_an_epoch_have_its_size() -> None:
    notes: list[str] = []
    sizes = (((12, 8), 1), ((20, 20), 1), ((16, 16), 3))  # the second has no epoch
    train = loader(Numbered(22), sizes=sizes, note=notes.append)
    shapes = [{images.shape for images, _ in train.epoch(epoch)} for epoch in range(4)]
    assert shapes == [{(4, 1, 12, 8)}, *[{(4, 1, 16, 16)}] * 3]
    assert notes == [
        f"training images have {size} pixels from epoch {n} on" for size, n in (("12 x 8", 1), ("16 x 16", 2))
    ]
    assert classes(train.epoch(2)) == classes(loader(Numbered(22)).epoch(2))


@pytest.mark.parametrize(("count", "views", "size"), [(24, 2, 6), (24, 3, 6), (25, 3, 8), (25, 2, 5), (9, 4, 9)])
def test_each_image_of_an_update_comes_as_often_as_it_is_repeated(count: int, views: int, size: int) -> None:
    order = np.random.default_rng(0).permutation(count)
    numbers = repeated_order(order, views, size)
    rest, batches = numbers[count // size * size :], numbers[: count // size * size].reshape(-1, size)
    images, turns = batches % count, batches // count
    assert len(batches) == count // size
    for row, turn in zip(images, turns, strict=True):
        times = np.unique(row, return_counts=True)[1]
        assert len(times) == -(-size // views)
        assert times.sum() == size and times.max() <= views and times.max() - times.min() <= 1
        assert size % views or times.min() == views
        assert len(set(zip(row.tolist(), turn.tolist(), strict=True))) == size  # each view has a number of its own
        assert all(row[2 * j] != row[2 * j + 1] for j in range(size // 2))  # what is mixed with each other
    assert len(np.unique(images)) == len(batches) * -(-size // views)  # no image comes in two updates
    assert not set(rest.tolist()) & set(images.flatten().tolist()) and len(numbers) == count


def test_views_of_an_image_are_augmented_each_for_itself_and_shared_by_processes() -> None:
    alone = list(mixing_loader(batch_size=12, views=3).epoch(1))
    parts = [list(mixing_loader(batch_size=4, views=3, rank=rank, world=3).epoch(1)) for rank in range(3)]
    assert len(alone) == 2
    for (images, targets), *shares in zip(alone, *parts, strict=True):
        assert torch.equal(images, torch.cat([share[0] for share in shares]))
        assert torch.equal(targets, torch.cat([share[1] for share in shares]))
    plain = loader(open_images("val", dataset="FashionMNIST", in_chans=1, num_samples=40), 20, views=2)
    ((images, targets), _) = plain.epoch(0)
    assert torch.equal(targets[:10], targets[10:])
    assert all(not torch.equal(one, two) for one, two in zip(images[:10], images[10:], strict=True))
    train = loader(Numbered(24), 6, views=2)
    assert classes(train.epoch(2, start=1)) == classes(train.epoch(2))[1:]
    assert classes(train.epoch(2)) != classes(train.epoch(3))


def test_an_update_of_one_image_alone_is_refused_and_the_advice_helps() -> None:
    told = (
        "repeated_augment 4: an update of 4 images would contain views of only one image; lower it, or raise batch_size"
    )
    with pytest.raises(UserError, match=told):
        loader(Numbered(24), 4, views=4)
    assert len(loader(Numbered(24), 4, views=3)) == len(loader(Numbered(24), 2, views=3, world=2)) == 6
    assert len(loader(Numbered(24), 5, views=4)) == len(loader(Numbered(24), 4, views=4, accumulation=2)) - 2 == 4


def test_accumulated_batches_share_the_views_of_an_update_as_processes_do() -> None:
    whole = classes(loader(Numbered(26), 12, views=3).epoch(1))
    parts = classes(loader(Numbered(26), 4, views=3, accumulation=3).epoch(1))
    assert [len(part) for part in parts] == [4] * 6
    assert [part[0] + part[1] + part[2] for part in (parts[:3], parts[3:])] == whole


@pytest.mark.parametrize("workers", [0, 1])
def test_an_epoch_of_another_size_goes_on_as_the_whole_one(workers: int) -> None:
    sizes = (((8, 8), 1), ((16, 12), 2))
    whole = list(loader(Numbered(22), sizes=sizes).epoch(1))
    rest = list(loader(Numbered(22), sizes=sizes, workers=workers).epoch(1, start=2))
    assert len(rest) == 3
    assert all(torch.equal(one[0], two[0]) for one, two in zip(whole[2:], rest, strict=True))


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_the_steps_of_one(world: int) -> None:
    alone = classes(loader(Numbered(24), 6).epoch(2))
    shared = [classes(loader(Numbered(24), 6 // world, rank=rank, world=world).epoch(2)) for rank in range(world)]
    assert [[i for part in parts for i in part] for parts in zip(*shared, strict=True)] == alone


def mixing_loader(**options: object) -> TrainLoader:
    transform = TrainTransform((8, 8), 1, min_crop=0.3)
    batch = BatchTransform(PREPROCESSING, 24, RandomErasing(0.5), Mixing(0.8, 1.0, mode="elem"), seed=5)
    return TrainLoader(Numbered(24), transform, batch, **options)  # type: ignore[arg-type]


def test_a_continued_epoch_mixes_as_the_whole_one_does() -> None:
    whole = list(mixing_loader(batch_size=4).epoch(2))
    for start in (1, 3):
        rest = list(mixing_loader(batch_size=4).epoch(2, start))
        assert len(rest) == 6 - start
        for (images, targets), (same, same_targets) in zip(whole[start:], rest, strict=True):
            assert torch.equal(images, same) and torch.equal(targets, same_targets)


def test_processes_mix_what_the_only_one_does() -> None:
    """With an odd batch a process reads the partner that another one has, too."""
    for world in (2, 4):
        alone = list(mixing_loader(batch_size=12).epoch(1))
        parts = [list(mixing_loader(batch_size=12 // world, rank=rank, world=world).epoch(1)) for rank in range(world)]
        for (images, targets), *shares in zip(alone, *parts, strict=True):
            assert torch.equal(images, torch.cat([share[0] for share in shares]))
            assert torch.equal(targets, torch.cat([share[1] for share in shares]))


def test_what_is_drawn_for_a_sample_goes_by_seed_epoch_and_turn() -> None:
    images = open_images("val", dataset="FashionMNIST", in_chans=1, num_samples=20)
    transform = TrainTransform((20, 20), 1)

    def drawn(seed: int = 0, epoch: int = 0, turn: int = 0, order: int = 1) -> torch.Tensor:
        numbers = np.arange(20)[::order] + 20 * turn
        samples = TrainSamples(images, transform, seed)[Request(epoch, numbers)]
        assert samples.targets.tolist() == images.targets[::order].tolist()
        drawn = torch.from_numpy(samples.images)
        return drawn.flip(0) if order < 0 else drawn

    first = drawn()
    assert torch.equal(first, drawn()) and torch.equal(first, drawn(order=-1))
    for other in (drawn(seed=1), drawn(epoch=1), drawn(turn=1)):
        assert sum(torch.equal(one, two) for one, two in zip(first, other, strict=True)) < 2


def test_the_names_of_a_batch_are_those_of_its_images() -> None:
    train = loader(Numbered(22))
    for epoch in (0, 3):
        expected = [[f"numbered image {image}" for image in batch] for batch in classes(train.epoch(epoch))]
        assert [train.names(epoch, batch) for batch in range(5)] == expected
        assert train.names(epoch, 1, 2) == expected[1] + expected[2]
    orders = [tuple(map(tuple, classes(train.epoch(epoch)))) for epoch in range(6)]
    assert len(set(orders)) == 6


@pytest.mark.parametrize(("count", "most"), [(10, 5), (250, 100)])
def test_some_broken_images_are_passed_over(count: int, most: int) -> None:
    notes: list[str] = []
    list(loader(Numbered(count, tuple(range(most))), batch_size=count // 2, note=notes.append).epoch(0))
    assert len(notes) == most
    with pytest.raises(UserError, match="too many training images are unreadable"):
        list(loader(Numbered(count, tuple(range(most + 1))), batch_size=count // 2).epoch(0))


def test_a_sample_does_not_depend_on_its_batch() -> None:
    images = open_images("val", dataset="FashionMNIST", in_chans=1, num_samples=60)
    batch = BatchTransform(Preprocessing((20, 20), in_chans=1), 10, RandomErasing(0.5, "pixel", 2))
    transform = TrainTransform((20, 20), 1, color_jitter=0.3)
    four, ten = (TrainLoader(images, transform, batch, batch_size=size) for size in (4, 10))
    together, apart = (torch.cat([images for images, _ in train.epoch(1)]) for train in (ten, four))
    assert torch.equal(together, apart)


def test_workers_give_the_same_batches_for_every_epoch() -> None:
    images = open_images("val", dataset="FashionMNIST", in_chans=1, num_samples=40)
    mixed = BatchTransform(Preprocessing((16, 16), in_chans=1), 10, RandomErasing(0.5), Mixing(0.8, 1.0), 0.1, 7)
    transform = TrainTransform((16, 16), 1, color_jitter=0.4)
    here, there = (TrainLoader(images, transform, mixed, batch_size=10, workers=workers) for workers in (0, 1))
    state = torch.get_rng_state()
    half = there.epoch(0)
    next(half)
    half.close()
    for epoch in (0, 1):
        for (a, b), (c, d) in zip(here.epoch(epoch), there.epoch(epoch), strict=True):
            assert torch.equal(a, c)
            assert torch.equal(b, d)
    assert torch.equal(torch.get_rng_state(), state)


class Fatal(Numbered):
    """Reading image 150 ends the process that reads it as `how` says."""

    def __init__(self, how: str) -> None:
        super().__init__(200)
        self.how = how

    def read(self, index: int) -> Image.Image:
        if index == 150:
            match self.how:
                case "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                case "exit":
                    os._exit(3)
                case "memory":
                    raise MemoryError
                case "bug":
                    raise ZeroDivisionError("of the test")
        return super().read(index)


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ("kill", "a data worker process was killed by SIGKILL, usually for lack of memory; lower"),
        ("exit", "a data worker process ended with exit code 3, usually for lack of memory; lower"),
        ("memory", "there is not enough memory for a batch; lower"),
    ],
)
def test_a_worker_that_dies_over_a_batch_is_one_sentence(how: str, sentence: str) -> None:
    with pytest.raises(UserError) as raised:
        list(loader(Fatal(how), workers=2).epoch(0))
    assert str(raised.value).startswith(sentence)
    assert len(list(loader(Numbered(200), workers=2).epoch(0))) == 50  # others are not harmed


def test_a_worker_that_hangs_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(_: object) -> object:
        raise WorkerSilentError("gave no answer for 15 minutes")

    monkeypatch.setattr("t2t_vit.data.loader.in_order", lambda *_: silent)
    with pytest.raises(UserError, match=r"a data worker process gave no answer for 15 minutes; check the disk"):
        list(loader(Numbered(200), workers=2).epoch(0))


def test_our_own_mistake_in_a_worker_says_where() -> None:
    with pytest.raises(ZeroDivisionError, match="of the test") as raised:
        list(loader(Fatal("bug"), workers=1).epoch(0))
    assert "in read" in "".join(raised.value.__notes__)


def test_workers_get_the_images_where_there_are_no_memory_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on macOS: each gets a copy."""
    monkeypatch.delattr(os, "memfd_create", raising=False)
    assert classes(loader(Numbered(20), workers=1).epoch(0)) == classes(loader(Numbered(20)).epoch(0))


def test_broken_images_are_named_once_and_replaced_by_the_same_others() -> None:
    notes: list[str] = []
    train = loader(Numbered(20, broken=(3, 7)), note=notes.append)
    first = classes(train.epoch(0))
    assert sorted(notes) == [f"numbered image {i}: the file is truncated; another image replaces it" for i in (3, 7)]
    assert sum(len(batch) for batch in first) == 20
    assert not {3, 7} & {i for batch in first for i in batch}
    assert first == classes(train.epoch(0))
    assert len(notes) == 2
    whole = classes(loader(Numbered(20)).epoch(0))
    unlike = [(a, b) for x, y in zip(first, whole, strict=True) for a, b in zip(x, y, strict=True) if a != b]
    assert sorted(b for _, b in unlike) == [3, 7]


@pytest.mark.parametrize("broken", [6, 10])
def test_too_many_broken_images_end_the_training(broken: int) -> None:
    train = loader(Numbered(10, broken=tuple(range(broken))), batch_size=5)
    with pytest.raises(UserError, match=r"too many training images are unreadable: \d+ so far of 10.*repair or remove"):
        list(train.epoch(0))


def test_a_large_batch_is_cut_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[str] = []
    train = loader(Numbered(5), batch_size=64, note=notes.append, world=2)
    assert (train.batch_size, len(train)) == (2, 1)
    assert notes == ["batch_size 64 is reduced to 2: there are 5 training images"]
    with pytest.raises(UserError, match="1 training image for 2 processes"):
        loader(Numbered(1), world=2)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0}, raising=False)
    loader(Numbered(50), workers=8, note=notes.append)
    assert notes[-1] == "num_parallel_workers 8 is reduced to 1, the number of cores"


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [3, 7, 100])
def test_evaluation_sees_every_image_once(world: int, batch_size: int) -> None:
    seen: list[int] = []
    for rank in range(world):
        evaluation = EvalLoader(Numbered(10), PREPROCESSING, batch_size=batch_size, rank=rank, world=world)
        batches = list(evaluation)
        assert len(batches) == len(evaluation)
        for images, targets in batches:
            assert PREPROCESSING.denormalize(images)[:, 0, 0, 0].tolist() == targets.tolist()
            seen += targets.tolist()
    assert sorted(seen) == list(range(10))


def test_more_ranks_than_images() -> None:
    assert list(EvalLoader(Numbered(1), PREPROCESSING, batch_size=4, rank=1, world=2)) == []


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("workers", [0, 1])
def test_evaluation_leaves_broken_images_out_and_counts_the_others_once(world: int, workers: int) -> None:
    notes: list[str] = []
    found: list[tuple[str, str]] = []
    bad = BadImages(known=frozenset({4}), note=notes.append, found=lambda *pair: found.append(pair))
    seen: list[int] = []
    for rank in range(world):
        images = Numbered(11, broken=(0, 1, 2, 4, 7))
        evaluation = EvalLoader(images, PREPROCESSING, batch_size=2, rank=rank, world=world, workers=workers, bad=bad)
        for _ in range(2):
            batches = list(evaluation)
            assert evaluation.numbers == [number for _, targets in batches for number in targets.tolist()]
        assert set(evaluation.unreadable) == {0, 1, 2, 4, 7} & set(range(rank, 11, world))
        seen += evaluation.numbers
    assert sorted(seen) == [3, 5, 6, 8, 9, 10]
    assert sorted(notes) == [f"numbered image {i}: the file is truncated; it is not counted" for i in (0, 1, 2, 7)]
    assert sorted(found) == [(f"numbered image {i}", "the file is truncated") for i in (0, 1, 2, 7)]


def test_evaluation_may_refuse_broken_images_and_names_all_of_them() -> None:
    evaluation = EvalLoader(Numbered(9, broken=(1, 2, 4, 7)), PREPROCESSING, batch_size=4, bad=BadImages(stops=True))
    with pytest.raises(UserError, match=r"4 of 9 images cannot be read .*image 1: .*image 4: .*, and 1 more.*skip"):
        list(evaluation)
    known = BadImages(stops=True, known=frozenset({1, 2, 4, 7}))  # of which the run has said what is done
    ((_, targets),) = EvalLoader(Numbered(9, broken=(1, 2, 4, 7)), PREPROCESSING, batch_size=9, bad=known)
    assert targets.tolist() == [0, 3, 5, 6, 8]


def test_training_may_refuse_broken_images() -> None:
    train = loader(Numbered(20, broken=(3,)), bad=BadImages(stops=True))
    with pytest.raises(UserError, match=r"1 of 20 images cannot be read .*image 3: .*--bad_images skip"):
        list(train.epoch(0))


def test_images_that_are_known_to_be_broken_are_not_named_again_and_change_no_number() -> None:
    notes: list[str] = []
    broken = tuple(range(12))
    known = loader(Numbered(30, broken=broken), bad=BadImages(known=frozenset(broken), note=notes.append))
    met = loader(Numbered(30, broken=broken))
    assert classes(known.epoch(1)) == classes(met.epoch(1))
    assert notes == []


def test_evaluation_with_a_worker_equals_without() -> None:
    images = open_images("val", dataset="FashionMNIST", in_chans=1, num_samples=30)
    here, there = (EvalLoader(images, PREPROCESSING, batch_size=8, workers=workers) for workers in (0, 1))
    for _ in range(2):
        for (a, b), (c, d) in zip(here, there, strict=True):
            assert torch.equal(a, c)
            assert torch.equal(b, d)


def test_sets_travel_to_workers() -> None:
    here = open_images("val", dataset="FashionMNIST", num_samples=7)  # others open its memory while it is held
    images = pickle.loads(pickle.dumps(here))
    assert len(images) == 7
    assert images.read(0).mode == "RGB"


@pytest.mark.gpu
def test_cuda_prefetch_gives_the_cpus_batches() -> None:
    device = torch.device("cuda")
    for workers in (0, 1):
        for ahead in (True, False):
            there = loader(Numbered(50), device=device, ahead=ahead, workers=workers)
            for (a, b), (c, d) in zip(loader(Numbered(50)).epoch(0), there.epoch(0), strict=True):
                assert c.device.type == "cuda"
                torch.testing.assert_close(a, c.cpu())
                torch.testing.assert_close(b, d.cpu())
