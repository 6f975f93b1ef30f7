"""Batches on the device: which images, in which order, on which process, how far ahead."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from t2t_vit.data.batch_transform import BatchTransform, Share
from t2t_vit.data.cache import ByteStore
from t2t_vit.data.folder import reduced
from t2t_vit.data.image_transform import Size, TrainTransform
from t2t_vit.data.images import ImageSet
from t2t_vit.data.preprocessing import Preprocessing
from t2t_vit.data.samples import EvalSamples, Failure, Request, Samples, TrainSamples
from t2t_vit.data.seeds import Purpose, generator
from t2t_vit.data.workers import WorkerDiedError, WorkerSilentError, WorkersUnavailableError, in_order, usable_workers
from t2t_vit.errors import UserError, printable
from t2t_vit.notes import counted, silent

Batch = tuple[Tensor, Tensor]
Note = Callable[[str], None]
T = TypeVar("T")

_CPU = torch.device("cpu")
_BROKEN_AT_LEAST = 100  # most unreadable training images to skip: this many, or 1 %, but never half of all
_BROKEN_SHARE = 0.01


class Arrived(NamedTuple):
    """`Samples` where they are used."""

    images: Tensor  # (B, C, H, W) uint8
    targets: Tensor  # (B,) int64
    indices: NDArray[np.int64]
    failures: list[Failure]
    lost: int


class TrainLoader:
    """Training batches of float32 images (B, C, H, W) and soft targets (B, K) on the device, incomplete ones dropped.

    Epoch e visits the images in one order, a function of (seed, e); step k takes the k-th `batch_size * world` of
    them, of which each rank takes its part. So the images of a step do not depend on how many processes share it,
    nor do the pairs that are mixed; with an odd `batch_size` a rank reads the partner that another one has, too.

    A broken image is replaced by another, always the same one, or with `bad.stops` ends the training with UserError.
    More of them than `bad` knows, 100 or 1 % of the images (whichever is more, but at most half), end it in any case.

    Args:
        batch_size: per process; cut to what there is, with a note.
        sizes: (height, width) of the images, and the epoch at which the next size follows, the last one staying;
            without any, the transform's.
        balanced: each class comes as often, see `balanced_order`; else every image once.
        views: how many each image of an update has in it, see `repeated_order`.
        accumulation: batches of an update.
        workers: processes that read ahead; 0 reads in this one. Cut to the number of cores, with a note.
        ahead: on CUDA, copy and transform the next batch on a stream of its own while this one is worked on.
        bad: what is done about broken images.
    """

    def __init__(
        self,
        images: ImageSet,
        transform: TrainTransform,
        batch_transform: BatchTransform,
        *,
        batch_size: int,
        sizes: Sequence[tuple[Size, int]] = (),
        balanced: bool = False,
        views: int = 1,
        accumulation: int = 1,
        workers: int = 0,
        rank: int = 0,
        world: int = 1,
        device: torch.device = _CPU,
        ahead: bool = True,
        bad: "BadImages | None" = None,
        note: Note = silent,
    ) -> None:
        if len(images) < world:
            raise UserError(f"{counted(len(images), 'training image')} for {world} processes: each needs at least one")
        self.batch_size = min(batch_size, len(images) // world)
        if self.batch_size < batch_size:
            note(f"batch_size {batch_size} is reduced to {self.batch_size}: there are {len(images)} training images")
        if 1 < views >= (update := self.batch_size * world * accumulation):
            raise UserError(
                f"repeated_augment {views}: an update of {update} images would contain views of only one image; lower "
                f"it, or raise batch_size (times processes and accumulation_step) above {views}"
            )
        self._batch_transform = batch_transform
        self._device = device
        self._ahead = ahead
        self._images = images
        self._sizes, self._size, self._note = sizes, transform.image_size, note
        self._broken = _Broken(images, bad or BadImages(note=note))
        seed = batch_transform.seed
        self._requests = _TrainRequests(
            images.targets, balanced, views, accumulation, self.batch_size, seed, rank, self.batch_size * world
        )
        samples = TrainSamples(images, transform, batch_transform.seed)
        modules = [TrainSamples.__module__] + (["timm.data.auto_augment"] if transform.auto_augment else [])
        self._read = _reader(samples.__getitem__, _limited(workers, len(self), note), device, modules)

    def __len__(self) -> int:
        """Batches an epoch."""
        return self._requests.batches

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from number `start` on; those before it are not read."""
        mixes = self._batch_transform.mixing.is_active(epoch)
        self._requests.epoch, self._requests.start, self._requests.strangers = epoch, start, mixes
        self._requests.size = self._size_in(epoch)
        batches, device = count(start), self._device
        return on_device(
            self._read(self._requests), lambda samples: self._finish(samples, epoch, next(batches)), device, self._ahead
        )

    def _size_in(self, epoch: int) -> Size | None:
        """The size of the images of an epoch, where it is not the transform's; a new one is noted."""
        if not self._sizes:
            return None
        size = next((size for size, end in self._sizes if epoch < end), self._sizes[-1][0])
        if size != self._size:
            self._note(f"training images have {size[0]} x {size[1]} pixels from epoch {epoch + 1} on")
        self._size = size
        return size

    def names(self, epoch: int, batch: int, count: int = 1) -> list[str]:
        """What the images of `count` batches from number `batch` on are called, those of all ranks."""
        size = self._requests.global_size
        images = self._requests.order(epoch)[batch * size : (batch + count) * size]
        return [self._images.name(image % len(self._images)) for image in images.tolist()]

    def _finish(self, samples: Arrived, epoch: int, batch: int) -> Batch:
        self._broken.add(samples)
        images = samples.images.to(self._device, non_blocking=True)
        targets = samples.targets.to(self._device, non_blocking=True)
        return self._batch_transform(images, targets, epoch, samples.indices, self._requests.share(batch))


class EvalLoader:
    """Evaluation batches of normalised float32 images (B, C, H, W) and int64 targets (B,) on the device.

    Every image comes exactly once over all ranks, in order; the last batch may be smaller, and a rank may have a batch
    less than another. A broken image is left out, and counted in `unreadable`; with `bad.stops` they end the evaluation
    after its last batch with UserError.

    Args:
        kept: memory for pixels, which are the same in every evaluation.
        bad: what is done about broken images.

    Attributes:
        numbers: of the images in the batches of the latest evaluation, in their order.
        unreadable: number -> reason, of this rank's broken images.
    """

    def __init__(
        self,
        images: ImageSet,
        preprocessing: Preprocessing,
        *,
        batch_size: int,
        workers: int = 0,
        rank: int = 0,
        world: int = 1,
        device: torch.device = _CPU,
        ahead: bool = True,
        kept: ByteStore | None = None,
        bad: "BadImages | None" = None,
        note: Note = silent,
    ) -> None:
        self.numbers: list[int] = []
        self.unreadable: dict[int, str] = {}
        self._images = images
        self._bad = bad or BadImages(note=note)
        self._preprocessing = preprocessing
        self._device = device
        self._ahead = ahead
        mine = np.arange(rank, len(images), world)
        self._requests = [Request(0, mine[i : i + batch_size]) for i in range(0, len(mine), batch_size)]
        samples = EvalSamples(reduced(images, preprocessing.reduction), preprocessing, kept)
        self._read = _reader(samples.__getitem__, _limited(workers, len(self), note), device, [EvalSamples.__module__])

    def __len__(self) -> int:
        """Batches of this rank."""
        return len(self._requests)

    def __iter__(self) -> Iterator[Batch]:
        self.numbers.clear()
        yield from on_device(self._readable(self._read(self._requests)), self._finish, self._device, self._ahead)
        new = [number for number in sorted(self.unreadable) if number not in self._bad.known]
        if new and self._bad.stops:
            reasons = {self._images.name(number): self.unreadable[number] for number in new}
            raise UserError(not_readable(reasons, len(self._images)))

    def _readable(self, answers: Iterable[Arrived]) -> Iterator[Arrived]:
        """The same samples without broken ones; batches of which nothing is left are left out."""
        for samples in answers:
            for failure in samples.failures:
                if failure.image not in self.unreadable:
                    self.unreadable[failure.image] = failure.reason
                    self._bad.met(failure.image, self._images.name(failure.image), failure.reason, "it is not counted")
            broken = {failure.image for failure in samples.failures}
            rows = [row for row, number in enumerate(samples.indices.tolist()) if number not in broken]
            self.numbers += samples.indices[rows].tolist()
            if len(rows) == len(samples.indices):
                yield samples
            elif rows:
                yield samples._replace(images=samples.images[rows], targets=samples.targets[rows])

    def _finish(self, samples: Arrived) -> Batch:
        images = self._preprocessing.normalize(samples.images.to(self._device, non_blocking=True))
        return images, samples.targets.to(self._device, non_blocking=True)


@dataclass
class _TrainRequests:
    """The requests of one rank for one epoch."""

    targets: NDArray[np.int64]
    balanced: bool
    views: int  # of an image in an update
    accumulation: int  # batches of an update
    batch_size: int
    seed: int
    rank: int
    global_size: int  # images of a batch of all ranks
    epoch: int = 0
    start: int = 0
    size: Size | None = None  # of the images, if it differs from the transform's
    strangers: bool = False  # whether mixing partners of another rank are read as well

    @property
    def batches(self) -> int:
        """Of an epoch."""
        return len(self.targets) // self.global_size

    def __len__(self) -> int:
        return self.batches - self.start

    def __iter__(self) -> Iterator[Request]:
        epoch, order = self.epoch, self.order(self.epoch)
        for k in range(self.start, self.batches):
            share = self.share(k)
            wanted = np.concatenate([share.own, share.strangers]) if self.strangers else share.own
            yield Request(epoch, order[k * self.global_size + wanted], self.size)

    def share(self, batch: int) -> Share:
        """This rank's part of a batch of all ranks."""
        return Share(batch, self.rank * self.batch_size, self.batch_size, self.global_size)

    def order(self, epoch: int) -> NDArray[np.int64]:
        """The images of an epoch, of all ranks."""
        rng = generator(self.seed, epoch, 0, Purpose.ORDER)
        if self.balanced:
            return balanced_order(self.targets, rng)
        order = rng.permutation(len(self.targets))
        return order if self.views == 1 else repeated_order(order, self.views, self.global_size * self.accumulation)


@dataclass(frozen=True)
class BadImages:
    """What is done about images that cannot be read.

    stops   they are a mistake of the user's; else training takes others, and evaluation does not count them
    known   numbers of those that were reported before
    note    gets a line for each other one
    found   gets the name of each other one, and the reason
    """

    stops: bool = False
    known: frozenset[int] = frozenset()
    note: Note = silent
    found: Callable[[str, str], None] = lambda _name, _reason: None

    def met(self, image: int, name: str, reason: str, instead: str) -> None:
        """Report image number `image`, once; what is done `instead` ends the line."""
        if image not in self.known:
            self.note(f"{name}: {reason}; {instead}")
            self.found(name, reason)


def not_readable(reasons: Mapping[str, str], count: int, where: str = "") -> str:
    """The sentence that ends a run whose images have to be readable.

    Args:
        reasons: the name of each that cannot be read, of `count` in all, and why.
        where: what to say of a file that lists all of them.
    """
    shown = [f"{printable(name)}: {reasons[name]}" for name in list(reasons)[:3]]
    more = f", and {len(reasons) - 3} more" if len(reasons) > 3 else ""
    return (
        f"{len(reasons):,} of {counted(count, 'image')} cannot be read{where} ({'; '.join(shown)}{more}); repair or "
        "remove them, or continue without them with --bad_images skip"
    )


class _Broken:
    """The broken training images met so far."""

    def __init__(self, images: ImageSet, bad: BadImages) -> None:
        self._images, self._bad = images, bad
        self._limit = min(len(images) // 2, max(_BROKEN_AT_LEAST, math.ceil(_BROKEN_SHARE * len(images))))
        self._seen: set[int] = set()

    def add(self, samples: Arrived) -> None:
        for failure in samples.failures:
            if failure.image in self._seen or failure.image in self._bad.known:
                continue
            self._seen.add(failure.image)
            name = self._images.name(failure.image)
            if self._bad.stops:
                raise UserError(not_readable({name: failure.reason}, len(self._images)))
            self._bad.met(failure.image, name, failure.reason, "another image replaces it")
        if samples.lost or len(self._seen) > self._limit:
            raise UserError(
                f"too many training images are unreadable: {len(self._seen) + len(self._bad.known)} so far of "
                f"{len(self._images)}, the last is {self._text(samples.failures[-1])}; repair or remove them"
            )

    def _text(self, failure: Failure) -> str:
        return f"{self._images.name(failure.image)}: {failure.reason}"


def _reader(
    read: Callable[[Request], Samples], workers: int, device: torch.device, modules: list[str]
) -> Callable[[Iterable[Request]], Iterator[Arrived]]:
    """Requests -> samples in order, read here or by worker processes, whose failures are sentences."""
    answers = in_order(read, workers, modules, partial(_arrived, device=device))

    def explained(requests: Iterable[Request]) -> Iterator[Arrived]:
        fewer = "lower num_parallel_workers (0 reads in the main process)"
        try:
            yield from answers(requests)
        except MemoryError as error:
            raise UserError(f"there is not enough memory for a batch; {fewer} or batch_size") from error
        except WorkersUnavailableError as error:
            raise UserError(f"data worker processes cannot be started ({error}); {fewer}") from error
        except WorkerSilentError as error:
            raise UserError(
                f"a data worker process {error}; check the disk or the network folder of the images, then continue "
                "with --resume auto"
            ) from error
        except WorkerDiedError as error:
            raise UserError(
                f"a data worker process {error}, usually for lack of memory; {fewer} or batch_size"
            ) from error

    return explained


def _arrived(samples: Samples, device: torch.device) -> Arrived:
    """Tensors over the same memory, or, for CUDA, in memory from which the device copies by itself."""
    images, targets = torch.from_numpy(samples.images), torch.from_numpy(samples.targets)
    if device.type == "cuda":
        with torch.cuda.device(device):  # each thread has its own current device
            images, targets = images.pin_memory(), targets.pin_memory()
    return Arrived(images, targets, samples.indices, samples.failures, samples.lost)


def _limited(workers: int, batches: int, note: Note) -> int:
    usable = usable_workers(workers)
    if usable < workers:
        note(f"num_parallel_workers {workers} is reduced to {usable}, the number of cores")
    return min(usable, batches)


def balanced_order(targets: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """As many numbers of images as there are, each class as often as the others (or once more), in random order.

    The images of a class come in turns, each turn all of them in a new order: a rare class is repeated evenly, of a
    large one every epoch sees another part. Image i in turn t has the number i + t N, for N images: image and turn are
    known from it, and what is drawn for a number, such as the crop, is another in every turn.
    """
    total = len(targets)
    counts = np.bincount(targets)
    present = np.flatnonzero(counts)
    shares = np.full(len(present), total // len(present))
    shares[rng.permutation(len(present))[: total % len(present)]] += 1
    members = np.argsort(targets, kind="stable")
    starts = np.cumsum(counts) - counts
    chosen = []
    for label, share in zip(present, shares, strict=True):
        images = members[starts[label] : starts[label] + counts[label]]
        turns = -(-share // len(images))
        chosen.append(np.concatenate([rng.permutation(images) + turn * total for turn in range(turns)])[:share])
    return rng.permutation(np.concatenate(chosen))


def repeated_order(order: NDArray[np.int64], views: int, size: int) -> NDArray[np.int64]:
    """The images of an epoch whose updates take `size`, of all ranks, where each comes `views` times in an update.

    Repeated augmentation (Hoffer et al. 2020; Touvron et al. 2021). View v of image i of N has the number i + v N: what
    is drawn for it is another each time. An update has ceil(size / views) images: all their first views, all their
    second ones, ..., cut to `size`. So neighbours, which are mixed with each other, are different images where there
    are two, and ranks and accumulated batches, each a part of the update, share the views of an image. What is left of
    an epoch after its last whole update are images that had no view in it.

    Args:
        order: (N,) the numbers of all images.

    Returns:
        (N,)
    """
    images = -(-size // views)
    updates = len(order) // size
    seen, unseen = order[: updates * images], order[updates * images :]
    repeated = seen.reshape(updates, 1, images) + np.arange(views)[:, None] * len(order)  # (updates, views, images)
    whole = repeated.reshape(updates, -1)[:, :size].reshape(-1)
    return np.concatenate([whole, unseen[: len(order) - len(whole)]])


def on_device(samples: Iterable[T], finish: Callable[[T], Batch], device: torch.device, ahead: bool) -> Iterator[Batch]:
    """Finished batches; on CUDA with `ahead`, each is made on a side stream while the one before it is in use."""
    if device.type != "cuda" or not ahead:
        yield from map(finish, samples)
        return
    side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    ready: Batch | None = None
    for following in samples:
        with torch.cuda.stream(side):
            made = finish(following)
        if ready is not None:
            yield ready
        current = torch.cuda.current_stream(device)
        current.wait_stream(side)
        for tensor in made:
            tensor.record_stream(current)  # else its memory could be given to the side stream while still in use
        ready = made
    if ready is not None:
        yield ready
