import pytest
import torch

from t2t_vit.ops.soft_split import inverse_soft_split, soft_split
from t2t_vit.variants import SoftSplit


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(7, 4, 2), (3, 2, 1), (3, 1, 1)])
@pytest.mark.parametrize(("height", "width"), [(32, 32), (33, 47), (7, 20)])
def test_windows_by_hand(kernel: int, stride: int, padding: int, height: int, width: int) -> None:
    features = torch.randn(2, 3, height, width)
    tokens = soft_split(features, kernel, stride, padding)
    rows, columns = SoftSplit(kernel, stride, padding).grid(height, width)
    assert tokens.shape == (2, rows * columns, 3 * kernel * kernel)
    padded = torch.zeros(2, 3, height + 2 * padding, width + 2 * padding)
    padded[:, :, padding : padding + height, padding : padding + width] = features
    for row in range(rows):
        for column in range(columns):
            top, left = row * stride, column * stride
            window = padded[:, :, top : top + kernel, left : left + kernel].flatten(1)
            assert torch.equal(tokens[:, row * columns + column], window)


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(7, 4, 2), (3, 2, 1), (3, 1, 1)])
@pytest.mark.parametrize(("height", "width"), [(32, 32), (31, 47), (7, 19)])
def test_inverse_undoes_the_split(kernel: int, stride: int, padding: int, height: int, width: int) -> None:
    features = torch.randn(2, 3, height, width)
    tokens = soft_split(features, kernel, stride, padding)
    torch.testing.assert_close(inverse_soft_split(tokens, (height, width), kernel, stride, padding), features)


def test_inverse_leaves_zero_what_no_window_reached() -> None:
    features = torch.ones(1, 1, 34, 32)
    back = inverse_soft_split(soft_split(features, 7, 4, 2), (34, 32), 7, 4, 2)
    assert torch.equal(back[:, :, :33], features[:, :, :33])
    assert not back[:, :, 33].any()


def test_sum_is_the_adjoint_of_the_split() -> None:
    features, tokens = torch.randn(2, 3, 32, 40), torch.randn(2, 80, 147)
    summed = inverse_soft_split(tokens, (32, 40), 7, 4, 2, average=False)
    torch.testing.assert_close((summed * features).sum(), (tokens * soft_split(features, 7, 4, 2)).sum())
