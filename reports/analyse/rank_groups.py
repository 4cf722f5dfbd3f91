"""Rank groups and bold figures: which rows of a leaderboard cannot be distinguished from the best."""

from collections.abc import Iterable, Sequence

from reports.analyse.stats import holm, moments, welch_p_value


def tied(samples: Sequence[Iterable[float]], level: float = 0.95) -> list[int]:
    """Rank groups, from 1, of samples sorted by their mean, best first.

    The first sample opens a group. It is compared with every sample below it by Welch's test, with Holm's
    correction for the number of these comparisons; the group ends before the first that differs, which opens
    the next group and is compared with all that remain below it, and so on. Sharing a group is no proof of equality: it
    means that these seeds cannot distinguish the two, and with one seed, where no test exists, nothing can be
    distinguished. Neighbours in different groups are not always distinguishable, since each is compared only with its
    group's best, nor are members of a group always indistinguishable, since groups are contiguous.

    The correction assumes a best sample named beforehand; the best in hindsight is separated a little more often. Of
    ten equal samples of 3, 5, 10 normal values, simulated 1,500 times, some were separated in 5, 9, 13 % of the
    simulations at level 0.95; without the correction in 38, 51, 56 %."""
    known = [moments(sample) for sample in samples]
    groups: list[int] = []
    while len(groups) < len(known):
        first, *below = known[len(groups) :]
        p_values = holm(welch_p_value(first, other) for other in below)
        size = next((i for i, p in enumerate(p_values, 1) if p <= 1 - level), len(p_values) + 1)
        groups += [groups[-1] + 1 if groups else 1] * size
    return groups


def best(samples: Sequence[Iterable[float]], level: float = 0.95) -> list[bool]:
    """Whether each sample is in the first group of `tied`, for samples in any order: the bold figures of a column.

    A sample without numbers is in no group."""
    known = [moments(sample) for sample in samples]
    order = sorted((i for i, (size, _, _) in enumerate(known) if size), key=lambda i: -known[i][1])
    groups = dict(zip(order, tied([samples[i] for i in order], level), strict=True))
    return [groups.get(i) == 1 for i in range(len(known))]
