"""Heat maps for localisation: of the gradient, and of class activations. (B, H, W) in [0, 1]"""

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional as F

from harness.explain import input_gradients
from harness.explain.maps import CAM, minmax
from harness.models.freezing import frozen


def grad_map(model: nn.Module, x: Tensor, *, sigma: float = 3.0) -> Tensor:
    """Input-gradient heat map of the predicted class's loss (Singh et al., 2020). (B, H, W) in [0, 1]

    Absolute gradient, mean over channels, clipped to its 2nd and 98th percentile, rescaled to [0, 1], smoothed by a 3x3
    box (zero padding) and a Gaussian (reflected), rescaled again. sigma: of the Gaussian, in pixels at image size 224;
    scaled with the shorter side. The 3x3 box is not scaled. A zero gradient gives a zero map.
    """
    with frozen(model):
        g = input_gradients.of(lambda z: log_odds_against_prediction(model(z)), x.detach())
    # Singh et al. also standardise, which the next rescaling cancels, and rescale over the batch, so that a map depends
    # on the other images. Here every step is per image.
    heat = minmax(_clipped_to_quantiles(g.abs().mean(1), 0.02, 0.98))
    heat = F.avg_pool2d(heat[:, None], 3, stride=1, padding=1)[:, 0]
    height, width = heat.shape[1:]
    rows, columns = (_gaussian(n, sigma * min(height, width) / 224).to(heat) for n in (height, width))
    return minmax(rows @ heat @ columns.T)


def log_odds_against_prediction(logits: Tensor) -> Tensor:
    """log((1 - p) / p) of the predicted class. (B, K) -> (B,)

    Its gradient is that of the cross-entropy divided by 1 - p, so that maps rescaled to [0, 1] are equal; but it does
    not vanish where p rounds to 1.
    """
    predicted = logits.argmax(1, keepdim=True)
    others = logits.scatter(1, predicted, -torch.inf).logsumexp(1)
    return others - logits.gather(1, predicted).squeeze(1)


def cam_map(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Class activation map of label y, rescaled to [0, 1]. (B, H, W)

    Upsampled bilinearly; Singh et al. (2020) use bicubic. Raises `UserError` for a model without known features.
    """
    return minmax(CAM().detached(model, x, y)[:, 0])


def _clipped_to_quantiles(maps: Tensor, low: float, high: float) -> Tensor:
    """Clip each map to its own quantiles `low` and `high`, interpolated linearly."""
    flat = maps.flatten(1)
    ordered = flat.sort(1).values  # torch.quantile refuses more than 2^24 values
    bounds = []
    for share in (low, high):
        position = share * (flat.shape[1] - 1)
        below = ordered[:, int(position)]
        above = ordered[:, min(int(position) + 1, flat.shape[1] - 1)]
        bounds.append((below + (position - int(position)) * (above - below))[:, None])
    return flat.clamp(*bounds).view_as(maps)


def _gaussian(n: int, sigma: float) -> Tensor:
    """Matrix (n, n) of `scipy.ndimage.gaussian_filter1d` on n values."""
    return torch.from_numpy(ndimage.gaussian_filter1d(np.eye(n), sigma, axis=0))
