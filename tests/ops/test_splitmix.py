import numpy as np
import torch

from t2t_vit.data.seeds import uniforms
from t2t_vit.ops.splitmix import mix, signed, sixteenths, words


def test_published_numbers() -> None:
    """The first outputs for the seed 1234567, as every implementation gives them."""
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert words(torch.tensor([1234567]), 1, 4)[0].tolist() == [signed(value) for value in expected]


def test_numpy_and_torch_have_the_same_numbers() -> None:
    keys = np.random.default_rng(0).integers(0, 2**64, 5, np.uint64)
    theirs = uniforms(keys, 7)
    ours = words(torch.from_numpy(keys.view(np.int64)), 1, 7).numpy().view(np.uint64) >> np.uint64(11)
    assert (ours * 2.0**-53 == theirs).all()


def test_any_part_of_a_stream_can_be_had() -> None:
    keys = torch.tensor([5, -(2**63), 2**63 - 1])
    assert torch.equal(words(keys, 1, 9)[:, 4:], words(keys, 5, 5))
    far = words(keys, 2**40, 3)
    assert torch.equal(far[:, 1:], words(keys, 2**40 + 1, 2))


def test_sixteenths_are_uniform_and_the_same_when_compiled() -> None:
    stream = words(mix(torch.arange(40)), 1, 500)
    numbers = sixteenths(stream)
    assert numbers.shape == (40, 2000)
    assert abs(numbers.double().mean().item() + 0.5) < 300
    assert torch.corrcoef(numbers.double()).fill_diagonal_(0).abs().max() < 0.12  # neighbouring keys are unrelated
    quarters = stream.unsqueeze(2) << torch.arange(48, -1, -16) >> 48
    assert torch.equal(numbers.long(), quarters.flatten(1))
