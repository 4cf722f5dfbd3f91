"""Binarise or rescale saliency maps for saliency-based training."""

from typing import Literal

import torch
from torch import Tensor

from harness.errors import UserError, unknown_name
from harness.explain.maps import minmax


def binarise(
    s: Tensor,
    mode: Literal["sign", "median", "quantile", "minmax", "none"],
    *,
    signed: bool = True,
    quantile: float = 0.5,
) -> Tensor:
    """Map a saliency map (B, C, H, W) to the m of a saliency step, per image over all channels and pixels.

    `sign`: in {-1, 0, 1}; for unsigned maps (see `saliency.signed`), where every value would be +1, `median` is used.
    `median`, `quantile`: +1 from that value upwards, else -1. `minmax`: rescaled to [0, 1], as in the released code.
    `none`: clipped to [-1, 1], for maps in that range. A constant map becomes 0, except with `sign` and `none`. Raises
    `UserError` for an unknown mode, or a quantile outside [0, 1].
    """
    if mode == "sign" and signed:
        return s.sign()
    if mode == "none":
        return s.clamp(-1, 1)
    if mode == "minmax":
        return minmax(s)
    if mode in ("sign", "median"):
        quantile = 0.5
    elif mode != "quantile":
        raise unknown_name("binarise", mode, ("sign", "median", "quantile", "minmax", "none"))
    if not 0 <= quantile <= 1:
        raise UserError(f"quantile must lie in [0, 1], not {quantile!r}")
    flat = s.flatten(1)
    minimum = flat.amin(1, keepdim=True)
    # By rank, as torch.median: torch.quantile refuses more than 2^24 values.
    threshold = flat.kthvalue(1 + int(quantile * (flat.shape[1] - 1)), dim=1, keepdim=True).values
    # A rectified map may be 0 on most of the image: values >= threshold would then be all of it.
    above = torch.where(threshold > minimum, flat >= threshold, flat > minimum)
    varies = flat.amax(1, keepdim=True) > minimum
    return above.to(s.dtype).mul_(2).sub_(1).mul_(varies).view_as(s)
