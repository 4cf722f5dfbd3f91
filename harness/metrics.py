"""How alike two attribution maps are: one number per image.

    metric(a, b) -> score     a, b (B, H, W): the maps of the clean and of the perturbed image; score (B,)

The larger, the more alike: 1 for equal maps. Maps are compared as they are, of either sign; `importance` makes them of
attributions. Everything is counted in whole numbers or float64, on the maps' device, and returned in their dtype, at
least float32, without a gradient: only `importance` and `mass_centre` can be differentiated. Raises `Mistake` for maps
of different shapes and for values that are not finite.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.errors import Mistake


def importance(maps: Tensor) -> Tensor:
    """Attributions (B, C, H, W) as maps (B, H, W): absolute values, summed over channels, of mean 1 over the pixels.

    So each map sums to H * W (Ghorbani et al., 2019; Singh et al., 2020); one that is 0 everywhere stays so.
    """
    size = maps.abs().sum(1)
    total = size.sum((1, 2), keepdim=True)
    # Divided first: H * W over the total of a vanishing gradient may be infinite.
    return size / torch.where(total > 0, total, 1) * (size.shape[1] * size.shape[2])


def mass_centre(a: Tensor) -> Tensor:
    """The centre of mass (row, column) of maps without negative values, (B, 2); of a map of zeros, its middle."""
    rows, columns = (torch.arange(s, dtype=a.dtype, device=a.device) for s in a.shape[1:])
    total = a.sum((1, 2))[:, None]
    moments = torch.stack([(a.sum(2) * rows).sum(1), (a.sum(1) * columns).sum(1)], 1)
    middle = torch.stack([rows.mean(), columns.mean()])
    return torch.where(total > 0, moments / torch.where(total > 0, total, 1), middle)


def top_k(a: Tensor, k: int) -> Tensor:
    """Where the k largest values of each map are, bool (B, H, W), k of them true.

    Of equal values the earlier pixel in row-major order comes first. Raises `Mistake` unless 1 <= k <= H * W.
    """
    (flat,) = _flat(a)
    if not 1 <= k <= flat.shape[1]:
        raise Mistake(f"k must lie between 1 and the number of pixels of a {a.shape[1]} x {a.shape[2]} map, not be {k}")
    largest = flat.sort(dim=1, descending=True, stable=True).indices[:, :k]
    return torch.zeros_like(flat, dtype=torch.bool).scatter_(1, largest, True).view_as(a)


def topk_intersection(a: Tensor, b: Tensor, k: int) -> Tensor:
    """The share of the k largest that both maps have in common, IN (Ghorbani et al., 2019)."""
    _check(a, b)
    return _as((top_k(a, k) & top_k(b, k)).sum((1, 2)).double() / k, a, b)


def kendall(a: Tensor, b: Tensor) -> Tensor:
    """Kendall's tau-b over all pixels, as `scipy.stats.kendalltau`, in O(N log N) (Knight, 1966).

    Where both maps are constant 1, as no order has changed; where only one is, 0.
    """
    x, y = _flat(a, b)
    order = x.argsort(1)
    order = order.gather(1, y.gather(1, order).argsort(dim=1, stable=True))
    x, y = x.gather(1, order), y.gather(1, order)  # by y, and by x where y is tied
    by_x, places = x.sort(dim=1, stable=True)  # by x, and by y where x is tied: no tied pair is an inversion
    pairs = x.shape[1] * (x.shape[1] - 1) // 2
    tied_x, tied_y, tied_both = _tied(by_x), _tied(y), _tied(x, y)
    concordant_less_discordant = pairs - tied_x - tied_y + tied_both - 2 * _inversions(places)
    return _as(_correlation(concordant_less_discordant, pairs - tied_x, pairs - tied_y), a, b)


def spearman(a: Tensor, b: Tensor) -> Tensor:
    """Spearman's rho over all pixels, tied values with their average rank, as `scipy.stats.spearmanr`.

    Where both maps are constant 1, as no order has changed; where only one is, 0.
    """
    x, y = (_centred_ranks(m) for m in _flat(a, b))
    return _as(_correlation((x * y).sum(1), (x * x).sum(1), (y * y).sum(1)), a, b)


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """The cosine between the maps as vectors. Where both are 0 everywhere 1; where only one is, 0."""
    x, y = (m.double() for m in _flat(a, b))
    x, y = (m / torch.where(m.any(1, keepdim=True), m.abs().amax(1, keepdim=True), 1) for m in (x, y))  # no underflow
    return _as(_correlation((x * y).sum(1), (x * x).sum(1), (y * y).sum(1)), a, b)


# Locality-sensitive variants (LENS; Kamath et al., "Rethinking Robustness of Model Attributions", AAAI 2024): N_w is
# all that lies in a window of (2w + 1) x (2w + 1) pixels around a pixel, as far as it lies in the image (in the scripts
# released with that paper a window runs over the border into the next row). Precision and recall are named as there.


def lens_precision(a: Tensor, b: Tensor, k: int, w: int = 1) -> Tensor:
    """The share of a's k largest that lie near those of b: |top_k(a) & N_w(top_k(b))| / k."""
    return lens_recall(b, a, k, w)


def lens_recall(a: Tensor, b: Tensor, k: int, w: int = 1) -> Tensor:
    """The share of b's k largest that lie near those of a: |N_w(top_k(a)) & top_k(b)| / k."""
    _check(a, b)
    near = F.max_pool2d(top_k(a, k)[:, None].float(), **_window(w))[:, 0] > 0
    return _as((near & top_k(b, k)).sum((1, 2)).double() / k, a, b)


def lens_kendall(a: Tensor, b: Tensor, w: int = 1) -> Tensor:
    """`kendall` of the maps' averages over the window; at the border over those of its pixels that exist."""
    return _as(kendall(*_averaged(w, a, b)), a, b)


def lens_spearman(a: Tensor, b: Tensor, w: int = 1) -> Tensor:
    """`spearman` of the maps' averages over the window; at the border over those of its pixels that exist."""
    return _as(spearman(*_averaged(w, a, b)), a, b)


def _averaged(w: int, *maps: Tensor) -> list[Tensor]:
    _check(*maps)
    # In float64 sums of float32 values of like size are exact: what is tied stays so, a constant map constant.
    return [F.avg_pool2d(m[:, None].double(), **_window(w), count_include_pad=False)[:, 0] for m in maps]


def _window(w: int) -> dict[str, int]:
    if w < 0:
        raise Mistake(f"w, the radius of a window in pixels, must not be negative: {w}")
    return {"kernel_size": 2 * w + 1, "stride": 1, "padding": w}


def _check(*maps: Tensor) -> None:
    if any(m.dim() != 3 or m.shape != maps[0].shape for m in maps):
        shapes = " and ".join(str(tuple(m.shape)) for m in maps)
        raise Mistake(f"attribution maps must have one shape (B, H, W), not {shapes}")
    if not all(m.isfinite().all() for m in maps):
        raise Mistake("an attribution map has values that are not finite")


def _flat(*maps: Tensor) -> list[Tensor]:
    """The maps as (B, N), checked. Adding 0 makes 0 of -0, which a sort may tell apart."""
    _check(*maps)
    return [m.detach().flatten(1) + 0 for m in maps]


def _as(score: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """The score in the maps' dtype, at least float32."""
    return score.to(torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32))


def _correlation(product: Tensor, square_x: Tensor, square_y: Tensor) -> Tensor:
    """product / sqrt(square_x square_y); 1 where both squares are 0, 0 where one is. (B,) each, float64."""
    squares = square_x.double() * square_y.double()  # may exceed int64
    value = (product / torch.where(squares > 0, squares, 1).sqrt()).clamp(-1, 1)
    return torch.where((square_x == 0) & (square_y == 0), 1, value)


def _centred_ranks(x: Tensor) -> Tensor:
    """Twice the average rank less its mean, (B, N) int64, exact. Sums of their products fit up to N = 2 million."""
    x, index = x.sort(1)
    end = x.shape[1] - 1
    first, last = _first_tied(x), end - _first_tied(x.flip(1)).flip(1)
    return torch.empty_like(index).scatter_(1, index, first + last - end)


def _tied(*columns: Tensor) -> Tensor:
    """How many pairs of places are tied; see `_first_tied`. (B,)"""
    first = _first_tied(*columns)
    return (torch.arange(first.shape[1], device=first.device) - first).sum(1)  # each to so many before it


def _first_tied(*columns: Tensor) -> Tensor:
    """The first place with the same value in every column (B, N), for every place; such places lie side by side."""
    differs = torch.zeros_like(columns[0], dtype=torch.bool)
    for c in columns:
        differs[:, 1:] |= c[:, 1:] != c[:, :-1]
    return torch.where(differs, torch.arange(differs.shape[1], device=differs.device), 0).cummax(1).values


def _inversions(p: Tensor) -> Tensor:
    """How many pairs of a permutation of 0 ... N - 1 stand in the wrong order, (B, N) -> (B,) int64.

    Split by their highest bit, in the order they stand in: the pairs of a larger value before a smaller one across the
    halves are counted, then each half is split by its next bit. Filled up to a power of two, all parts are equal in
    size, so that every level is a few operations on the whole batch.
    """
    batch, n = p.shape
    size = 1 << (n - 1).bit_length()
    place = torch.arange(size, device=p.device)
    p = torch.cat([p, place[n:].expand(batch, -1)], 1)  # at the end and in order: no inversion is added
    count = torch.zeros(batch, dtype=torch.int64, device=p.device)
    while size > 1:
        half = size // 2
        parts = p.view(batch, len(place) // size, size)
        high = (parts & half) != 0
        highs_before = high.cumsum(2)
        count += torch.where(high, 0, highs_before).sum((1, 2))
        goes_to = torch.where(high, half - 1 + highs_before, place[:size] - highs_before)
        p = torch.empty_like(parts).scatter_(2, goes_to, parts)
        size = half
    return count
