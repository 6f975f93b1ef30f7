"""The network as a backbone for detection, segmentation and saliency."""

from collections.abc import Sequence

from torch import Tensor, nn

from t2t_vit.model.intermediates import check_request, laid_out, run_intermediates, taken
from t2t_vit.model.position import grid_of
from t2t_vit.model.t2t_vit import T2TViT


class FeaturesOnly(nn.Module):
    """The network as a backbone: images to a list of maps at chosen places, and the class token apart.

        backbone = FeaturesOnly(model)              # strides 4, 8 and 16
        maps, class_token = backbone(images)        # (B, 64, 56, 56), (B, 64, 28, 28), (B, 384, 14, 14); (B, 384)

    Args:
        model: shared, not copied; its head is not used.
        indices: 0 and 1 are the maps after the two attentions of the tokens-to-token module, 2 and on the blocks.
        output_fmt: "NCHW" or "NHWC" for maps (B, C, H, W) or (B, H, W, C), "NLC" or "NCL" for tokens (B, H W, C) or
            (B, C, H W).
        norm: whether the final LayerNorm is applied to what comes from blocks.

    Attributes:
        channels, strides: of each map, in the order of `indices`.

    Raises:
        UserError: an index or a layout that there is not, or a block with other channels than the norm.
    """

    def __init__(
        self, model: T2TViT, indices: Sequence[int] = (0, 1, -1), *, output_fmt: str = "NCHW", norm: bool = True
    ) -> None:
        super().__init__()
        self.model, self.output_fmt, self.norm = model, output_fmt, norm
        self.indices = taken(len(model.feature_info), indices)
        check_request(model, self.indices, norm, output_fmt)
        info = [model.feature_info[index] for index in self.indices]
        self.channels = [entry["num_chs"] for entry in info]
        self.strides = [entry["reduction"] for entry in info]

    def forward(self, images: Tensor) -> tuple[list[Tensor], Tensor]:  # (B, in_chans, height, width)
        wanted = taken(len(self.model.feature_info), self.indices)  # again: the network may have been pruned since
        check_request(self.model, wanted, self.norm, self.output_fmt)
        tokens, kept = run_intermediates(self.model, images, wanted, self.norm, False)
        grid = grid_of(images, self.model.variant.splits)
        maps = [laid_out(number, kept[number], grid, self.output_fmt)[0] for number in self.indices]
        return maps, tokens[:, 0]
