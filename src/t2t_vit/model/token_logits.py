"""Logits of every token besides those of the image: what token labels are learned by, and read off a teacher.

Source: token labeling and MixToken, Jiang et al. 2021, arXiv 2104.10858.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from t2t_vit.model.inputs import positions_for
from t2t_vit.model.t2t_vit import T2TViT


def token_logits(network: T2TViT, tokens: Tensor) -> Tensor:
    """Normalised tokens (B, 1 + N, num_features) -> logits (B, 1 + N, num_classes): of the image, and of each token.

    The head of the class token answers for the others too, so there is no weight that the network alone lacks.
    """
    image = network.forward_head(tokens)  # (B, num_classes)
    return torch.cat([image.unsqueeze(1), network.head(tokens[:, 1:])], dim=1)  # (B, 1 + N, num_classes)


class TokenLogits(nn.Module):
    """`network`, whose weights these are, as it is trained by token labels.

    Args:
        mixed: what happens to the tokens (B, N, dim) of the T2T module before positions and class token join them.
    """

    def __init__(self, network: T2TViT, mixed: Callable[[Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.network, self.mixed = network, mixed

    def forward(self, images: Tensor) -> Tensor:  # (B, in_chans, height, width)
        network = self.network
        pos_embed = positions_for(images, network.pos_embed, network.expected)  # (1, 1 + N, dim)
        tokens = network.run(network.tokens_to_token, images)  # (B, N, dim)
        if self.mixed is not None:
            tokens = self.mixed(tokens)
        return token_logits(network, network.encode(tokens, pos_embed))  # (B, 1 + N, num_classes)


class TokenMixing:
    """MixToken: within a box of the grid an image has the tokens of its neighbour, image 2 j those of 2 j + 1.

    Unlike cutmix's, no token sees pixels of both images. An image without a neighbour, the last of an odd number, is
    left as it is. The box is the same for the whole batch.

    Args:
        draw: the grid (rows, columns), the number of the update and that of its batch -> (N,) bool, true in the box.
    """

    def __init__(self, draw: Callable[[tuple[int, int], int, int], Tensor]) -> None:
        self._draw = draw
        self.taken: Tensor | None = None

    def begin(self, grid: tuple[int, int], step: int, part: int) -> None:
        """Draw the box of batch number `part` of update number `step`."""
        self.taken = self._draw(grid, step, part)

    def tokens(self, tokens: Tensor) -> Tensor:
        """What belongs to each token (B, N, C), mixed."""
        assert self.taken is not None
        return torch.where(self.taken[:, None], tokens.index_select(0, _neighbours(tokens)), tokens)

    def targets(self, targets: Tensor) -> Tensor:
        """What belongs to each image (B, K), mixed by the number of its tokens."""
        assert self.taken is not None
        share = self.taken.to(targets.dtype).mean()
        return targets.lerp(targets.index_select(0, _neighbours(targets)), share)


def _neighbours(batch: Tensor) -> Tensor:
    rows = torch.arange(batch.shape[0], device=batch.device)
    return torch.where(rows ^ 1 < batch.shape[0], rows ^ 1, rows)
