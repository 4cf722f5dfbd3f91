"""What few seeds allow to be said: intervals by Student's t, differences by Welch, groups that cannot be told
apart; and the front of several goals.

All functions take plain numbers; missing ones (NaN) are left out. An interval from fewer than two numbers has
a half-width of NaN, which means "unknown", not "none"."""

import math
from collections.abc import Iterable, Sequence

import numpy as np
from scipy.special import stdtrit  # the quantile alone; scipy.stats takes a second to import


def interval(values: Iterable[float], level: float = 0.95) -> tuple[float, float]:
    """Mean and half-width of its Student t interval; (NaN, NaN) for no values, half-width NaN for one.

    It says how far another draw of seeds would move the mean. Equal values give a half-width of 0: all one
    can say from them is that they agreed."""
    x = _present(values)
    if not x.size:
        return math.nan, math.nan
    if x.size < 2:
        return float(x[0]), math.nan
    return float(x.mean()), float(_quantile(x.size - 1, level) * x.std(ddof=1) / math.sqrt(x.size))


def difference(a: Iterable[float], b: Iterable[float], level: float = 0.95) -> tuple[float, float]:
    """mean(a) - mean(b) and the half-width of its interval by Welch (1947); variances, sizes may differ."""
    a, b = _present(a), _present(b)
    if not a.size or not b.size:
        return math.nan, math.nan
    apart = float(a.mean() - b.mean())
    if a.size < 2 or b.size < 2:
        return apart, math.nan
    va, vb = a.var(ddof=1) / a.size, b.var(ddof=1) / b.size
    if va + vb == 0:
        return apart, 0.0
    freedom = (va + vb) ** 2 / (va**2 / (a.size - 1) + vb**2 / (b.size - 1))
    return apart, float(_quantile(freedom, level) * math.sqrt(va + vb))


def tied(samples: Sequence[Iterable[float]], level: float = 0.95) -> list[int]:
    """Rank groups, from 1, of samples that come sorted by their mean, best first.

    The first sample opens a group; every following one whose Welch interval of the difference to that best
    one covers 0 joins it; the first that does not opens the next. Sharing a group is no proof of equality: it
    says that these seeds cannot tell the two apart, and with one seed, where no interval is known, nothing
    can be told apart. Nor are two neighbours in different groups always distinguishable, as each was compared
    with its group's best alone. Levels are per comparison, not corrected for their number."""
    groups: list[int] = []
    best: list[float] = []
    for sample in map(list, samples):
        apart, half = difference(best, sample, level)
        if not groups or abs(apart) > half:
            best = sample
            groups.append(groups[-1] + 1 if groups else 1)
        else:
            groups.append(groups[-1])
    return groups


def front(points: Iterable[Sequence[float]]) -> list[bool]:
    """Whether no other point is at least as high in every coordinate and higher in one (Pareto).

    A point with a missing coordinate neither beats another nor stands on the front."""
    points = [tuple(map(float, point)) for point in points]
    whole = [point for point in points if not any(map(math.isnan, point))]

    def beaten(point: tuple[float, ...]) -> bool:
        return any(all(x >= y for x, y in zip(other, point, strict=True)) and other != point for other in whole)

    return [point in whole and not beaten(point) for point in points]


def _present(values: Iterable[float]) -> np.ndarray:
    x = np.asarray(list(values), dtype=float)
    return x[~np.isnan(x)]


def _quantile(freedom: float, level: float) -> float:
    return float(stdtrit(freedom, 0.5 + level / 2))
