"""Two linear layers with a GELU between them."""

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from t2t_vit.model.drop import Dropout
from t2t_vit.model.linear import Linear
from t2t_vit.ops.kernels import exporting, transforming


def gelu(approximate: bool) -> nn.GELU:
    """The exact GELU (erf), or its tanh approximation."""
    return nn.GELU(approximate="tanh" if approximate else "none")


def forgets_activations(hidden: Tensor) -> bool:
    """Whether memory is dearer than computing a GELU again: in training on a GPU, where it is a sixth of a step's."""
    is_plain = type(hidden) is Tensor and not exporting() and not transforming()
    return is_plain and hidden.is_cuda and hidden.requires_grad


class Mlp(nn.Module):
    """drop2(fc2(drop1(gelu(fc1(x))))) on (B, N, dim)."""

    def __init__(self, dim: int, hidden: int, drop: float, approximate_gelu: bool) -> None:
        super().__init__()
        self.fc1 = Linear(dim, hidden)
        self.act = gelu(approximate_gelu)
        self.fc2 = Linear(hidden, dim)
        self.drop1, self.drop2 = Dropout(drop), Dropout(drop)

    def forward(self, tokens: Tensor) -> Tensor:  # (B, N, dim)
        hidden = self.fc1(tokens)  # (B, N, hidden)
        if forgets_activations(hidden) and not (self.drop1.training and self.drop1.p):  # what is drawn cannot be again
            # Only what comes before the GELU is kept; for the gradient it is made again, the layer behind it is not.
            shrunk = checkpoint(self._shrink, hidden, use_reentrant=False, preserve_rng_state=False)
        else:
            shrunk = self._shrink(hidden)
        return self.drop2(shrunk)  # (B, N, dim)

    def _shrink(self, hidden: Tensor) -> Tensor:
        return self.fc2(self.drop1(self.act(hidden)))
