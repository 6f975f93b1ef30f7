"""Two linear layers with a GELU between them."""

from torch import Tensor, nn

from t2t_vit.model.drop import Dropout


def gelu(approximate: bool) -> nn.GELU:
    """The exact GELU (erf), or its tanh approximation."""
    return nn.GELU(approximate="tanh" if approximate else "none")


class Mlp(nn.Module):
    """drop2(fc2(drop1(gelu(fc1(x))))) on (B, N, dim)."""

    def __init__(self, dim: int, hidden: int, drop: float, approximate_gelu: bool) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.act = gelu(approximate_gelu)
        self.fc2 = nn.Linear(hidden, dim)
        self.drop1, self.drop2 = Dropout(drop), Dropout(drop)

    def forward(self, tokens: Tensor) -> Tensor:  # (B, N, dim)
        hidden = self.drop1(self.act(self.fc1(tokens)))  # (B, N, hidden)
        return self.drop2(self.fc2(hidden))  # (B, N, dim)
