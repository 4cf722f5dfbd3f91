"""Similarity of attribution maps: top-k intersection, Kendall, Spearman, cosine, LENS variants, SSIM; one per image.

    metric(a, b) -> score     a, b (B, H, W): the maps of the clean and of the perturbed image; score (B,)

Larger is more similar; 1 for equal maps. Maps may have either sign; `importance` makes them from attributions. Scores
are computed in integers or float64, on the maps' device, and returned in the maps' dtype, at least float32, without a
gradient: only `importance` and `mass_centre` are differentiable. Raises `UserError` for maps of different shapes and
for values that are not finite.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.errors import UserError


def importance(maps: Tensor) -> Tensor:
    """Importance maps (B, H, W) of attributions (B, C, H, W): absolute values summed over channels, of mean 1.

    Each map sums to H * W (Ghorbani et al., 2019; Singh et al., 2020); a zero map stays zero.
    """
    size = maps.abs().sum(1)
    total = size.sum((1, 2), keepdim=True)
    # Divide first: H * W over the total of a vanishing gradient may be infinite.
    return size / torch.where(total > 0, total, 1) * (size.shape[1] * size.shape[2])


def mass_centre(a: Tensor) -> Tensor:
    """Centre of mass (row, column) of non-negative maps, (B, 2); of a zero map, the image centre."""
    rows, columns = (torch.arange(s, dtype=a.dtype, device=a.device) for s in a.shape[1:])
    total = a.sum((1, 2))[:, None]
    moments = torch.stack([(a.sum(2) * rows).sum(1), (a.sum(1) * columns).sum(1)], 1)
    centre = torch.stack([rows.mean(), columns.mean()])
    return torch.where(total > 0, moments / torch.where(total > 0, total, 1), centre)


def top_k(a: Tensor, k: int) -> Tensor:
    """Mask of the k largest values of each map, bool (B, H, W).

    Ties are broken in row-major order. Raises `UserError` unless 1 <= k <= H * W.
    """
    (flat,) = _flattened(a)
    if not 1 <= k <= flat.shape[1]:
        raise UserError(
            f"k must lie between 1 and the number of pixels of a {a.shape[1]} x {a.shape[2]} map, not be {k}"
        )
    largest = flat.sort(dim=1, descending=True, stable=True).indices[:, :k]
    return torch.zeros_like(flat, dtype=torch.bool).scatter_(1, largest, True).view_as(a)


def topk_intersection(a: Tensor, b: Tensor, k: int) -> Tensor:
    """Top-k intersection IN: the fraction of the k largest pixels common to both maps (Ghorbani et al., 2019)."""
    _check(a, b)
    return _cast((top_k(a, k) & top_k(b, k)).sum((1, 2)).double() / k, a, b)


def kendall(a: Tensor, b: Tensor) -> Tensor:
    """Kendall's tau-b over all pixels, as `scipy.stats.kendalltau`, in O(N log N) (Knight, 1966).

    1 if both maps are constant, as no order has changed; 0 if only one is.
    """
    x, y = _flattened(a, b)
    order = x.argsort(1)
    order = order.gather(1, y.gather(1, order).argsort(dim=1, stable=True))
    x, y = x.gather(1, order), y.gather(1, order)  # by y, and by x where y is tied
    by_x, positions = x.sort(dim=1, stable=True)  # by x, and by y where x is tied: no tied pair is an inversion
    pairs = x.shape[1] * (x.shape[1] - 1) // 2
    tied_x, tied_y, tied_both = _tied(by_x), _tied(y), _tied(x, y)
    concordant_less_discordant = pairs - tied_x - tied_y + tied_both - 2 * _inversions(positions)
    return _cast(_correlation(concordant_less_discordant, pairs - tied_x, pairs - tied_y), a, b)


def spearman(a: Tensor, b: Tensor) -> Tensor:
    """Spearman's rho over all pixels, with average ranks for ties, as `scipy.stats.spearmanr`.

    1 if both maps are constant, as no order has changed; 0 if only one is.
    """
    x, y = (_centred_ranks(m) for m in _flattened(a, b))
    return _cast(_correlation((x * y).sum(1), (x * x).sum(1), (y * y).sum(1)), a, b)


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine similarity of the maps as vectors; 1 if both are zero, 0 if only one is."""
    x, y = (m.double() for m in _flattened(a, b))
    x, y = (m / torch.where(m.any(1, keepdim=True), m.abs().amax(1, keepdim=True), 1) for m in (x, y))  # no underflow
    return _cast(_correlation((x * y).sum(1), (x * x).sum(1), (y * y).sum(1)), a, b)


def ssim(a: Tensor, b: Tensor, value_range: float = 1.0) -> Tensor:
    """Structural similarity (Wang et al., 2004): mean over pixels, Gaussian window of 11 x 11 pixels with sigma 1.5.

    value_range: L of the constants (0.01 L)^2 and (0.03 L)^2, for values in [0, L]. Windows are clipped at the border,
    where the original has no value, so that maps may be smaller than a window. Raises `UserError` unless L > 0.
    """
    _check(a, b)
    if not value_range > 0:
        raise UserError(f"the value range of SSIM must be positive, not {value_range}")
    x, y = (m.detach().double().contiguous() for m in (a, b))
    rows, columns = (_gaussian_windows(side, x) for side in x.shape[1:])
    mean_x, mean_y, xx, yy, xy = (rows @ m @ columns.T for m in (x, y, x * x, y * y, x * y))
    c1, c2 = (0.01 * value_range) ** 2, (0.03 * value_range) ** 2
    same_mean = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    same_structure = (2 * (xy - mean_x * mean_y) + c2) / ((xx - mean_x**2) + (yy - mean_y**2) + c2)
    return _cast((same_mean * same_structure).mean((1, 2)).clamp(-1, 1), a, b)


def _gaussian_windows(side: int, like: Tensor) -> Tensor:
    """Weights (side, side) of the positions in the window around each position of an axis, of sum 1."""
    position = torch.arange(side, dtype=like.dtype, device=like.device)
    distance = (position[:, None] - position).abs()
    weight = torch.where(distance <= 5, torch.exp(-(distance**2) / (2 * 1.5**2)), 0)
    return weight / weight.sum(1, keepdim=True)


# Locality-sensitive variants (LENS; Kamath et al., "Rethinking Robustness of Model Attributions", AAAI 2024): N_w is
# the window of (2w + 1) x (2w + 1) pixels around a pixel, clipped to the image (in the scripts released with that paper
# a window wraps over the border into the next row). Precision and recall are named as in the paper.


def lens_precision(a: Tensor, b: Tensor, k: int, w: int = 1) -> Tensor:
    """LENS precision: the fraction of a's top k within w pixels of b's: |top_k(a) & N_w(top_k(b))| / k."""
    return lens_recall(b, a, k, w)


def lens_recall(a: Tensor, b: Tensor, k: int, w: int = 1) -> Tensor:
    """LENS recall: the fraction of b's top k within w pixels of a's: |N_w(top_k(a)) & top_k(b)| / k."""
    _check(a, b)
    within_window = F.max_pool2d(top_k(a, k)[:, None].float(), _side(w), stride=1, padding=w)[:, 0] > 0
    return _cast((within_window & top_k(b, k)).sum((1, 2)).double() / k, a, b)


def lens_kendall(a: Tensor, b: Tensor, w: int = 1) -> Tensor:
    """LENS Kendall: `kendall` of the window averages of the maps; windows are clipped at the border."""
    return _cast(kendall(*_averaged(w, a, b)), a, b)


def lens_spearman(a: Tensor, b: Tensor, w: int = 1) -> Tensor:
    """LENS Spearman: `spearman` of the window averages of the maps; windows are clipped at the border."""
    return _cast(spearman(*_averaged(w, a, b)), a, b)


def _averaged(w: int, *maps: Tensor) -> list[Tensor]:
    _check(*maps)
    # In float64, sums of float32 values of similar size are exact: ties and constant maps are preserved.
    return [F.avg_pool2d(m[:, None].double(), _side(w), 1, w, count_include_pad=False)[:, 0] for m in maps]


def _side(w: int) -> int:
    if w < 0:
        raise UserError(f"w, the radius of a window in pixels, must not be negative: {w}")
    return 2 * w + 1


def _check(*maps: Tensor) -> None:
    if any(m.dim() != 3 or m.shape != maps[0].shape for m in maps):
        shapes = " and ".join(str(tuple(m.shape)) for m in maps)
        raise UserError(f"attribution maps must have one shape (B, H, W), not {shapes}")
    if not all(m.isfinite().all() for m in maps):
        raise UserError("an attribution map has values that are not finite")


def _flattened(*maps: Tensor) -> list[Tensor]:
    """The maps as (B, N), checked. Adding 0 turns -0 into 0, which a sort may distinguish."""
    _check(*maps)
    return [m.detach().flatten(1) + 0 for m in maps]


def _cast(score: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Cast a score to the maps' dtype, at least float32."""
    return score.to(torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32))


def _correlation(product: Tensor, square_x: Tensor, square_y: Tensor) -> Tensor:
    """product / sqrt(square_x square_y); 1 if both squares are 0, 0 if one is. (B,) each, float64."""
    squares = square_x.double() * square_y.double()  # may exceed int64
    value = (product / torch.where(squares > 0, squares, 1).sqrt()).clamp(-1, 1)
    return torch.where((square_x == 0) & (square_y == 0), 1, value)


def _centred_ranks(x: Tensor) -> Tensor:
    """Twice the average rank minus its mean, (B, N) int64, exact. Sums of products fit up to N = 2 million."""
    x, index = x.sort(1)
    end = x.shape[1] - 1
    first, last = _first_tied(x), end - _first_tied(x.flip(1)).flip(1)
    return torch.empty_like(index).scatter_(1, index, first + last - end)


def _tied(*columns: Tensor) -> Tensor:
    """Number of tied pairs; see `_first_tied`. (B,)"""
    first = _first_tied(*columns)
    return (torch.arange(first.shape[1], device=first.device) - first).sum(1)  # each is tied to this many before it


def _first_tied(*columns: Tensor) -> Tensor:
    """For every position of sorted columns (B, N), the first position with the same value in every column."""
    differs = torch.zeros_like(columns[0], dtype=torch.bool)
    for c in columns:
        differs[:, 1:] |= c[:, 1:] != c[:, :-1]
    return torch.where(differs, torch.arange(differs.shape[1], device=differs.device), 0).cummax(1).values


def _inversions(p: Tensor) -> Tensor:
    """Number of inversions of permutations of 0 ... N - 1, (B, N) -> (B,) int64.

    A stable radix partition from the highest bit down: inversions between the halves are counted, then each half is
    partitioned by its next bit. Padded to a power of two, all parts have equal size, so that every level is a few
    operations on the whole batch.
    """
    batch, n = p.shape
    size = 1 << (n - 1).bit_length()
    index = torch.arange(size, device=p.device)
    p = torch.cat([p, index[n:].expand(batch, -1)], 1)  # padding at the end, in order, adds no inversion
    count = torch.zeros(batch, dtype=torch.int64, device=p.device)
    while size > 1:
        half = size // 2
        parts = p.view(batch, len(index) // size, size)
        high = (parts & half) != 0
        highs_before = high.cumsum(2)
        count += torch.where(high, 0, highs_before).sum((1, 2))
        target = torch.where(high, half - 1 + highs_before, index[:size] - highs_before)
        p = torch.empty_like(parts).scatter_(2, target, parts)
        size = half
    return count
