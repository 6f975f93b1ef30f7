import pytest
import torch

from t2t_vit.ops.soft_split import soft_split
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
