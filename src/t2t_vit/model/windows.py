"""Windows of a feature map that are not made until something has to see them."""

from dataclasses import dataclass

from torch import Tensor, nn

from t2t_vit.errors import UserError
from t2t_vit.model.linear import Linear, is_plain
from t2t_vit.ops.kernels import exporting
from t2t_vit.ops.soft_split import soft_split
from t2t_vit.ops.split_norm_linear import split_linear, split_norm_linear
from t2t_vit.variants import SoftSplit

Grid = tuple[int, int]
LINEAR = (Linear, nn.Linear)


@dataclass(frozen=True)
class Windows:
    """The overlapping windows of `features` (B, C, H, W) as tokens (B, N, C k k) in waiting.

    `kernels` is how they are computed with; see `split_norm_linear`.
    """

    features: Tensor
    split: SoftSplit
    kernels: str = "auto"

    @property
    def grid(self) -> Grid:
        """Rows and columns of windows."""
        return self.split.grid(self.features.shape[2], self.features.shape[3])

    def tokens(self) -> Tensor:
        """The windows, made: (B, N, C k k), in memory k^2 / stride^2 times the map."""
        return soft_split(self.features, self.split.kernel, self.split.stride, self.split.padding)

    def linear(self, linear: nn.Module) -> Tensor:
        """linear(tokens()): (B, N, out)."""
        if not isinstance(linear, nn.Linear) or not is_plain(linear, *LINEAR):
            return linear(self.tokens())
        split = self.split
        return split_linear(self.features, split.kernel, split.stride, split.padding, linear.weight, linear.bias)

    def norm_linear(self, norm: nn.Module, linear: nn.Module) -> Tensor:
        """linear(norm(tokens())) without the tokens, where the two layers are plain ones: (B, N, out).

        Raises:
            UserError: kernels that were asked for by name cannot compute it.
        """
        split = self.split
        are_plain = is_plain(norm, nn.LayerNorm) and is_plain(linear, *LINEAR)
        if are_plain and isinstance(norm, nn.LayerNorm) and isinstance(linear, nn.Linear):
            return split_norm_linear(
                self.features,
                split.kernel,
                split.stride,
                split.padding,
                norm.weight,
                norm.bias,
                norm.eps,
                linear.weight,
                linear.bias,
                self.kernels,
            )
        if self.kernels not in ("auto", "reference") and not exporting():
            raise UserError(f"kernels '{self.kernels}' cannot run: a layer of the T2T module is replaced or hooked")
        return linear(norm(self.tokens()))


def norm_linear(tokens: Tensor | Windows, norm: nn.Module, linear: nn.Module) -> Tensor:
    """linear(norm(tokens)) for tokens that are there, (B, N, dim), or windows that are not: (B, N, out)."""
    return tokens.norm_linear(norm, linear) if isinstance(tokens, Windows) else linear(norm(tokens))
