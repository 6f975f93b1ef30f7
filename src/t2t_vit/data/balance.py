"""An epoch in which every class comes as often."""

import numpy as np
from numpy.typing import NDArray


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
