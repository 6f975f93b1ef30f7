"""The input of one network -> the input of another, for the same crop of the same image; on the device."""

from typing import TYPE_CHECKING

from t2t_vit.data.preprocessing import Preprocessing

if TYPE_CHECKING:
    import torch
    from torch import Tensor

LUMA = (0.299, 0.587, 0.114)  # of red, green and blue: ITU-R 601-2, as Pillow makes an image grey


class Conversion:
    """Images that are normalised for one network -> the same images, normalised, resized and coloured for another.

    Whatever was done to the images, erased or mixed, is in the result too; a crop is not made again, so `crop_pct` has
    no part in it. Sizes are changed with antialiasing, by the target's interpolation where it is bicubic, else by the
    bilinear one. Alpha is laid on white, and is opaque where only the target has it.

    Args:
        source: what the images were normalised by; their size may be another one.
        target: what they become.
    """

    def __init__(self, source: Preprocessing, target: Preprocessing, device: "torch.device") -> None:
        import torch

        def statistics(values: tuple[float, ...]) -> "Tensor":
            return torch.tensor(values, device=device).view(-1, 1, 1)

        self._channels, self._size = target.in_chans, target.image_size
        self._interpolation = "bicubic" if target.interpolation == "bicubic" else "bilinear"
        # Where nothing of it changes, not even a rounding is to change.
        self._is_normalised = (source.mean, source.std) == (target.mean, target.std)
        self._mean, self._std = statistics(source.mean), statistics(source.std)
        self._target_mean, self._target_std = statistics(target.mean), statistics(target.std)
        self._luma = statistics(LUMA)

    def __call__(self, images: "Tensor") -> "Tensor":
        """float32 (B, C, H, W) -> float32 (B, C', H', W')."""
        if self._is_normalised:
            return self._resized(images)
        pixels = self._coloured(images * self._std + self._mean)  # (B, C', H, W) in 0..1
        return (self._resized(pixels) - self._target_mean) / self._target_std

    def _coloured(self, pixels: "Tensor") -> "Tensor":
        """(B, C, H, W) in 0..1 -> (B, C', H, W); 1 channel is grey, 3 are RGB, 4 RGBA."""
        import torch

        if pixels.shape[1] == self._channels:
            return pixels
        if pixels.shape[1] == 4:
            colours, alpha = pixels[:, :3], pixels[:, 3:]
            pixels = colours * alpha + (1 - alpha)  # (B, 3, H, W)
        if self._channels == 1:
            return (pixels * self._luma).sum(dim=1, keepdim=True)
        pixels = pixels.expand(-1, 3, -1, -1)
        return pixels if self._channels == 3 else torch.cat([pixels, torch.ones_like(pixels[:, :1])], dim=1)

    def _resized(self, images: "Tensor") -> "Tensor":
        from torch.nn.functional import interpolate

        if images.shape[-2:] == self._size:
            return images
        return interpolate(images, self._size, mode=self._interpolation, antialias=True)
