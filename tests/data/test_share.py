import numpy as np
import pytest
import torch

from t2t_vit.data.batch_transform import MIXING_MODES, BatchTransform, Mixing, RandomErasing, Share, partners
from t2t_vit.data.preprocessing import Preprocessing


@pytest.mark.parametrize("size", [1, 2, 5, 8])
def test_partners_are_neighbours_and_mutual(size: int) -> None:
    mutual = partners(np.arange(size), size)
    assert (mutual[mutual] == np.arange(size)).all()
    assert (np.abs(mutual - np.arange(size)) == 1).sum() == size - size % 2


def test_even_shares_have_no_strangers_and_odd_ones_at_most_two() -> None:
    for count, world in ((4, 3), (2, 2), (6, 1), (7, 1)):
        assert all(len(Share(0, rank * count, count, count * world).strangers) == 0 for rank in range(world))
    assert [Share(0, rank * 3, 3, 12).strangers.tolist() for rank in range(4)] == [[3], [2], [9], [8]]
    assert Share(0, 1, 2, 4).strangers.tolist() == [0, 3]


@pytest.mark.parametrize("mode", MIXING_MODES)
@pytest.mark.parametrize(("count", "world"), [(4, 2), (3, 2), (3, 4), (1, 6), (5, 3)])
def test_every_split_of_a_batch_makes_the_same_samples(mode: str, count: int, world: int) -> None:
    size = count * world
    rng = np.random.default_rng(1)
    images = torch.from_numpy(rng.integers(0, 256, (size, 3, 9, 9), np.uint8))
    targets, order = torch.arange(size) % 5, rng.permutation(100)[:size]
    transform = BatchTransform(
        Preprocessing((9, 9)), 5, RandomErasing(0.5), Mixing(0.8, 1.0, mode=mode), label_smoothing=0.1, seed=2
    )

    def part(share: Share) -> tuple[torch.Tensor, torch.Tensor]:
        rows = np.concatenate([share.own, share.strangers])
        return transform(images[rows], targets[rows], 1, order[rows], share)

    for batch in range(4):
        together = part(Share(batch, 0, size, size))
        apart = [part(Share(batch, rank * count, count, size)) for rank in range(world)]
        assert torch.equal(together[0], torch.cat([images for images, _ in apart]))
        assert torch.equal(together[1], torch.cat([targets for _, targets in apart]))
