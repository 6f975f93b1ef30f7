"""The moving average's step."""

import pytest
import torch

from t2t_vit.training.ema import move


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("share", [0.0, 0.25])
def test_averages_move_by_their_share(device: str, share: float) -> None:
    torch.manual_seed(0)
    averages = [torch.randn(shape, device=device) for shape in ((3, 4), (7,), (1, 1, 5))]
    weights = [torch.randn_like(average) for average in averages]
    before = [average.clone() for average in averages]
    move(averages, weights, torch.tensor(share, device=device))
    for average, weight, old in zip(averages, weights, before, strict=True):
        torch.testing.assert_close(average, old + share * (weight - old))
        assert share or torch.equal(average, old)
