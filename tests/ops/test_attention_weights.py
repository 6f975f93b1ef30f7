import pytest
import torch
import torch.nn.functional as F

from t2t_vit.ops.attention import softmax_weights
from t2t_vit.ops.performer import draw_features, performer_attention, performer_weights


def test_softmax_weights_times_values_is_attention() -> None:
    q, k, v = torch.randn(3, 2, 4, 9, 8)
    expected = F.scaled_dot_product_attention(q, k, v, scale=0.3)
    torch.testing.assert_close(softmax_weights(q, k, 0.3) @ v, expected)


@pytest.mark.parametrize("length", [0.3, 1.0, 6.0])
def test_performer_weights_times_values_is_performer_attention(length: float) -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 11, 16) * length
    features = draw_features(8, 16)
    weights = performer_weights(q, k, features)
    assert weights.min() >= 0
    assert weights.sum(dim=-1).max() <= 1 + 1e-5
    torch.testing.assert_close(weights @ v, performer_attention(q, k, v, features))
