"""Colours on the device: YUV 4:2:0, as the loader hands frames over, to the RGB that the trunk sees.

A frame is half as many bytes in 4:2:0 on its way from loader to device. ITU-R BT.601, limited range; each value of
colour difference stands for a square of 2x2 pixels, as in the RGB that the loader makes, so that both show the same to
three levels.

Axes: N frames, H height, W width, C colour; a frame in 4:2:0 has H * 3 / 2 rows (``k700_text.media.clip.PixelFormat``).
"""

from __future__ import annotations

import torch
from torch import Tensor

_KR, _KB = 0.299, 0.114
_KG = 1 - _KR - _KB
_BLACK, _NEUTRAL = 16, 128
_LUMA_GAIN, _CHROMA_GAIN = 255 / 219, 255 / 224
_RED_OF_V = 2 * (1 - _KR) * _CHROMA_GAIN
_BLUE_OF_U = 2 * (1 - _KB) * _CHROMA_GAIN
_GREEN_OF_U = -_BLUE_OF_U * _KB / _KG
_GREEN_OF_V = -_RED_OF_V * _KR / _KG


def rgb_from_yuv420(video: Tensor, mean: Tensor | None = None, std: Tensor | None = None) -> Tensor:
    """Returns RGB, float (..., H, W, C), of frames in 4:2:0, uint8 (..., H * 3 / 2, W).

    Without ``mean`` and ``std`` it is 0 to 255, not rounded; with them it is normalised, ``(rgb - mean) / std``, at no
    further cost.

    Args:
        video: H and W are even.
        mean: float (C,), on the scale of 0 to 255; its type is the result's, float32 without it.
        std: float (C,).
    """
    rows, width = video.shape[-2:]
    height = rows * 2 // 3
    frames = video.reshape(-1, rows, width)
    mean = torch.zeros(3, device=video.device) if mean is None else mean
    std = torch.ones(3, device=video.device) if std is None else std
    luma = frames[:, :height].to(mean.dtype).view(-1, height // 2, 2, width // 2, 2, 1)
    planes = frames[:, height:].reshape(-1, 2, height // 2, width // 2).to(mean.dtype) - _NEUTRAL
    u, v = planes.unbind(1)
    tint = torch.stack([_RED_OF_V * v, _GREEN_OF_U * u + _GREEN_OF_V * v, _BLUE_OF_U * u], dim=-1)
    # Normalised here, at a quarter of the pixels: the whole picture is written once and clamped in place.
    tint = (tint - (_BLACK * _LUMA_GAIN + mean)) / std
    rgb = torch.addcmul(tint[:, :, None, :, None], luma, _LUMA_GAIN / std)
    rgb = rgb.clamp_(-mean / std, (255 - mean) / std)
    return rgb.reshape(*video.shape[:-2], height, width, 3)


def yuv_from_rgb(colours: Tensor) -> Tensor:
    """Returns the three values of BT.601, limited range, float (..., 3), of RGB colours (..., 3) of 0 to 255."""
    red, green, blue = colours.unbind(-1)
    luma = _KR * red + _KG * green + _KB * blue
    u, v = (blue - luma) / (_BLUE_OF_U), (red - luma) / _RED_OF_V
    return torch.stack([_BLACK + luma / _LUMA_GAIN, _NEUTRAL + u, _NEUTRAL + v], dim=-1)
