import itertools
import math

import numpy as np
import pytest
import scipy.stats

from harness.errors import UserError
from reports.analyse import rank_groups, stats


def correct(rng, runs, images, level=0.0, spread=0.0, difficulty=None):
    """0/1 of `runs` nets on images of different difficulty; spread: of the nets' skill, in standard deviations."""
    difficulty = rng.normal(size=images) if difficulty is None else difficulty
    skill = level + spread * rng.normal(size=(runs, 1))
    return (skill + difficulty + rng.normal(size=(runs, images)) > 0).astype(float)


# ---- Welch, Holm, groups


@pytest.mark.parametrize("sizes", [(3, 3), (2, 7), (5, 10)])
def test_welch_agrees_with_scipy(sizes):
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 2, sizes[0]), rng.normal(1, 0.5, sizes[1])
    there = scipy.stats.ttest_ind(a, b, equal_var=False)
    assert stats.welch(a, b) == pytest.approx(there.pvalue)
    assert stats.welch([*a, math.nan], b) == stats.welch(b, a) == stats.welch(a, b)


def test_welch_and_its_interval_say_the_same():
    a, b = [0.5, 0.55, 0.52], [0.45, 0.5, 0.44, 0.47]
    p = stats.welch(a, b)
    apart, half = stats.difference(a, b, 1 - p)
    assert abs(apart) == pytest.approx(half)


def test_welch_without_seeds_or_spread():
    assert math.isnan(stats.welch([0.5], [0.4, 0.5])) and math.isnan(stats.welch([], []))
    assert stats.welch([0.5, 0.5], [0.5, 0.5, 0.5]) == 1.0
    assert stats.welch([0.5, 0.5], [0.4, 0.4]) == 0.0


def test_rounding_gives_equal_values_no_spread():
    ten, three = [0.1] * 10, [0.1] * 3  # numpy's mean of three is not 0.1, their standard deviation not 0
    assert np.std(three) > 0
    assert stats.interval(three) == (0.1, 0.0)
    assert stats.welch(three, ten) == 1.0 and stats.difference(three, ten) == (0.0, 0.0)


def test_holm_by_hand():
    assert stats.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert stats.holm([0.5, 0.9]) == [1.0, 1.0]
    adjusted = stats.holm([0.03, math.nan, 0.01])
    assert adjusted[::2] == pytest.approx([0.03, 0.02]) and math.isnan(adjusted[1])
    assert stats.holm([]) == [] and math.isnan(stats.holm([math.nan])[0])


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.2])
def test_adjusted_values_reject_what_the_step_down_procedure_does(alpha):
    rng = np.random.default_rng(1)
    for _ in range(50):
        p = rng.beta(0.3, 2, size=7)
        rejected = set()
        for step, i in enumerate(np.argsort(p)):
            if p[i] > alpha / (7 - step):
                break
            rejected.add(i)
        assert {i for i, adjusted in enumerate(stats.holm(p)) if adjusted <= alpha} == rejected


# 0.02 below the first, p = 0.07; 0.024 below it, p = 0.042
FIRST, NEAR, LESS = [0.70, 0.71, 0.72], [0.68, 0.69, 0.70], [0.676, 0.686, 0.696]


def test_groups_are_corrected_for_what_remains_below():
    assert 0.025 < stats.welch(FIRST, LESS) < 0.05 < stats.welch(FIRST, NEAR) < 0.1
    assert rank_groups.tied([FIRST, LESS]) == [1, 2]
    assert rank_groups.tied([FIRST, NEAR, LESS]) == [1, 1, 1]  # two comparisons: the smaller p would have to be 0.025
    far = [0.1, 0.11, 0.12]
    assert rank_groups.tied([FIRST, NEAR, far]) == [1, 1, 2]
    assert rank_groups.tied([[0.9, 0.91, 0.92], FIRST, LESS]) == [1, 2, 3]  # the comparisons above no longer count
    assert rank_groups.tied([FIRST, LESS], level=0.99) == [1, 1]


def test_single_seeds_are_tied_and_count_for_nothing():
    assert rank_groups.tied([FIRST, [0.3], LESS]) == [1, 1, 2]
    assert rank_groups.tied([[0.9], FIRST, [0.1, 0.1]]) == [1, 1, 1]
    assert rank_groups.tied([FIRST, []]) == [1, 1]


def test_groups_are_runs_of_the_order():
    rng = np.random.default_rng(2)
    for _ in range(50):
        samples = [rng.normal(rng.normal(), rng.exponential(), 3) for _ in range(8)]
        groups = rank_groups.tied(sorted(samples, key=lambda s: -s.mean()))
        assert groups[0] == 1 and set(np.diff(groups)) <= {0, 1}


def test_equal_samples_are_seldom_set_apart():
    rng = np.random.default_rng(3)
    split = plain = 0
    for _ in range(300):
        samples = sorted(rng.normal(size=(10, 3)), key=lambda s: -s.mean())
        split += rank_groups.tied(samples)[-1] > 1
        plain += min(stats.welch(samples[0], other) for other in samples[1:]) <= 0.05
    assert split / 300 < 0.09 and plain / 300 > 0.25


def test_the_best_of_a_column_come_in_any_order():
    far = [0.1, 0.11, 0.12]
    assert rank_groups.best([far, FIRST, NEAR]) == [False, True, True]
    assert rank_groups.best([NEAR, far, FIRST]) == [True, False, True]
    assert rank_groups.best([LESS, FIRST]) == [False, True] and rank_groups.best([LESS, FIRST, NEAR]) == [
        True,
        True,
        True,
    ]
    assert rank_groups.best([FIRST, FIRST]) == [True, True]


def test_the_best_among_missing_and_single_numbers():
    assert rank_groups.best([[math.nan, math.nan], FIRST, [], LESS]) == [False, True, False, False]
    assert rank_groups.best([[0.9], FIRST, [0.1, 0.11]]) == [
        True,
        True,
        True,
    ]  # nothing is known of the highest's spread
    assert rank_groups.best([[0.6], FIRST, [0.1, 0.11]]) == [True, True, False]
    assert rank_groups.best([]) == [] and rank_groups.best([[], [math.nan]]) == [False, False]


# ---- one row over seeds


@pytest.mark.parametrize("n", [4, 5, 6, 7, 8, 11])
def test_the_interquartile_mean_is_the_trimmed_mean_of_every_value_fourfold(n):
    x = np.random.default_rng(n).normal(size=n)
    expected = scipy.stats.trim_mean(np.repeat(x, 4), 0.25)  # 4 n values, of which a quarter is a whole number
    assert stats.interquartile_mean([*x, math.nan]) == pytest.approx(expected)
    assert stats.interquartile_mean(np.stack([x, x + 1]), axis=1) == pytest.approx([expected, expected + 1])
    assert stats.interquartile_mean(np.stack([x, x + 1], axis=1), axis=0) == pytest.approx([expected, expected + 1])


def test_fewer_than_four_values_have_no_interquartile_mean():
    assert math.isnan(stats.interquartile_mean([1, 2, 3, math.nan])) and math.isnan(stats.interquartile_mean([]))
    assert stats.interquartile_mean([9, 1, 2, 3]) == 2.5


def every_resample(x):
    return np.array(list(itertools.product(x, repeat=len(x)))).T


def test_few_seeds_are_resampled_in_every_way():
    x = np.array([0.3, 0.1, 0.35, 0.32, 0.9])
    every = np.sort(np.median(every_resample(x), axis=0))
    tail = int(0.025 * every.size)  # 78 of 3,125, as 78.125 would be beyond the ends
    assert stats.bootstrap(x, np.median) == (every[tail], every[-1 - tail])


def test_the_mean_is_studentised():
    x = np.array([0.3, 0.1, 0.35, 0.32, 0.9])
    every = every_resample(x)
    every = every[:, np.ptp(every, axis=0) > 0]
    scores = np.sort((every.mean(axis=0) - x.mean()) / scipy.stats.sem(every))
    below, above = (int((x < x.mean()).sum()), int((x > x.mean()).sum()))  # resamples of one value: beyond all
    tail = int(0.025 * 5**5)
    low, high = scores[tail - below], scores[above - 1 - tail]
    error = scipy.stats.sem(x)
    assert stats.bootstrap(x) == pytest.approx((x.mean() - high * error, x.mean() - low * error))


def test_drawn_percentiles_agree_with_scipy():
    x = np.random.default_rng(4).exponential(size=20)
    there = scipy.stats.bootstrap((x,), np.median, method="percentile", rng=np.random.default_rng(5))
    ours = stats.bootstrap(x, np.median)
    assert ours == pytest.approx(there.confidence_interval, abs=0.05 * np.ptp(ours))
    assert ours == stats.bootstrap(x, np.median)


def test_a_mirrored_sample_has_the_mirrored_interval():
    x = np.random.default_rng(6).exponential(size=12)
    low, high = stats.bootstrap(x)
    assert stats.bootstrap(-x) == pytest.approx((-high, -low))
    assert stats.bootstrap([*x, math.nan], level=0.8)[0] > low


def test_too_few_seeds_leave_the_ends_open():
    assert all(map(math.isnan, stats.bootstrap([]))) and all(map(math.isnan, stats.bootstrap([0.5, math.nan])))
    assert stats.bootstrap([0.1, 0.2, 0.4]) == (-math.inf, math.inf)
    assert stats.bootstrap([0.1] * 3) == pytest.approx((0.1, 0.1))


def test_the_bootstrap_of_ten_skewed_values_covers_what_it_says():
    rng = np.random.default_rng(7)
    covered = {"bootstrap": 0, "percentile": 0, "interquartile": 0}
    middle = 2 * (scipy.stats.expon.expect(lambda x: x, lb=math.log(4 / 3), ub=math.log(4)))
    for x in rng.exponential(size=(400, stats.SEEDS)):
        ends = {
            "bootstrap": (*stats.bootstrap(x, draws=2000), 1),
            "percentile": (*stats.bootstrap(x, lambda r, axis: r.mean(axis), draws=2000), 1),
            "interquartile": (*stats.bootstrap(x, stats.interquartile_mean, draws=2000), middle),
        }
        for name, (low, high, truth) in ends.items():
            covered[name] += low <= truth <= high
    assert 0.91 < covered["bootstrap"] / 400 < 0.98
    assert 0.89 < covered["interquartile"] / 400 < 0.98
    assert covered["percentile"] / 400 < 0.9


# ---- two rows on the same images


def test_mcnemar_agrees_with_the_binomial_test():
    rng = np.random.default_rng(8)
    a, b = rng.random((2, 200)) < [[0.7], [0.6]]
    only_a, only_b, p = stats.mcnemar(a, b)
    assert (only_a, only_b) == (sum(x and not y for x, y in zip(a, b, strict=True)), int((b > a).sum()))
    assert p == pytest.approx(scipy.stats.binomtest(only_a, only_a + only_b).pvalue)
    assert stats.mcnemar(b, a) == (only_b, only_a, p)


def test_mcnemar_of_nets_that_agree():
    assert stats.mcnemar([True, False], [True, False]) == (0, 0, 1.0)
    assert stats.mcnemar([True] * 4, [True, True, False, False]) == (2, 0, 0.5)
    with pytest.raises(UserError, match="the same images"):
        stats.mcnemar([True], [True, False])


def test_single_runs_of_right_and_wrong_are_compared_by_mcnemar():
    rng = np.random.default_rng(9)
    a, b = correct(rng, 2, 300, level=[[0.5], [0.2]])
    pair = stats.paired(a[None], b[None])
    assert pair.p == stats.mcnemar(a > 0, b > 0)[2]
    assert pair.difference == pytest.approx(a.mean() - b.mean()) and pair.n == 300
    assert math.isnan(pair.low_both) and math.isnan(pair.high_both)


@pytest.mark.parametrize("n", [7, 12, 15, 17])
def test_signs_are_flipped_in_every_way_or_nearly(n):
    rng = np.random.default_rng(10)
    for shift, thirds in itertools.product((0, 0.4, 0.8), (False, True)):
        a = rng.normal(shift, size=(1, n))
        a = np.where(a > -0.5, 1, -1) * np.where(np.arange(n) < 2, 2, 1) / 3 if thirds else a
        signs = np.array(list(itertools.product([-1, 1], repeat=n)))
        exact = (np.abs(signs @ a[0]) >= abs(a.sum()) - 1e-9).mean()
        near = 1e-9 if n <= stats.FLIPS else 0.02 if exact > 0.1 else 0.01
        assert stats.paired(a, np.zeros((1, n))).p == pytest.approx(exact, abs=near)


def test_equal_nets_differ_as_often_as_the_level_says():
    rng = np.random.default_rng(11)
    p, covered = [], 0
    for _ in range(1000):
        difficulty = rng.normal(size=150)
        pair = stats.paired(*(correct(rng, 3, 150, difficulty=difficulty) for _ in range(2)), draws=300)
        p.append(pair.p)
        covered += pair.low <= 0 <= pair.high  # these nets' true difference is 0: they guess anew on every image
    p = np.array(p)
    # Thirds of an image leave gaps between the p values: a test of 5 % rejects a little less.
    assert 0.025 < (p <= 0.05).mean() < 0.06 and 0.13 < (p <= 0.2).mean() < 0.22
    assert 0.93 < covered / 1000 < 0.97


@pytest.mark.parametrize(("runs", "spread"), [(3, 0.0), (3, 0.2), (5, 0.1)])
def test_the_interval_over_seeds_and_images_covers_what_it_says(runs, spread):
    rng = np.random.default_rng(12)
    both = nets = 0
    for _ in range(400):
        difficulty = rng.normal(size=200)
        sides = [correct(rng, runs, 200, spread=spread, difficulty=difficulty) for _ in range(2)]
        pair = stats.paired(*sides, draws=100)
        both += pair.low_both <= 0 <= pair.high_both
        nets += pair.low <= 0 <= pair.high
    assert 0.915 < both / 400 < 0.985
    assert spread < 0.2 or nets / 400 < 0.75  # it is of these nets, not of their settings


def test_without_spread_among_images_both_is_welch_over_seeds():
    a, b = np.array(FIRST), np.array([0.6, 0.65, 0.61, 0.6])
    pair = stats.paired(np.tile(a[:, None], 50), np.tile(b[:, None], 50))
    apart, half = stats.difference(a, b)
    assert (pair.low_both, pair.high_both) == pytest.approx((apart - half, apart + half))
    assert pair.low == pytest.approx(pair.high)


def test_without_spread_among_seeds_both_is_the_t_interval_over_images():
    a, b = np.random.default_rng(13).normal(size=(2, 80))
    pair = stats.paired(np.tile(a, (3, 1)), np.tile(b, (4, 1)))
    there = scipy.stats.ttest_rel(a, b).confidence_interval()
    assert (pair.low_both, pair.high_both) == pytest.approx((there.low, there.high))


@pytest.mark.parametrize("kind", ["0/1", "skewed"])
def test_the_interval_over_images_is_the_percentile_bootstrap(kind):
    rng = np.random.default_rng(14)
    if kind == "0/1":
        a, b = correct(rng, 2, 120), correct(rng, 2, 120)
    else:
        a, b = rng.exponential(size=(1, 120)) ** 2, np.zeros((1, 120))
    apart = a.mean(axis=0) - b.mean(axis=0)
    assert (len(np.unique(apart)) > stats.VALUES) == (kind == "skewed")
    there = scipy.stats.bootstrap((apart,), np.mean, method="percentile", n_resamples=20_000, rng=rng)
    low, high = there.confidence_interval
    pair = stats.paired(a, b)
    near = 0.015 * (high - low) if kind == "skewed" else 1.01 / 240  # to the next value that such a mean can have
    assert (pair.low, pair.high) == pytest.approx((low, high), abs=near)
    assert vars(stats.paired(a, b)) == pytest.approx(vars(pair), rel=0, abs=0, nan_ok=True)
    assert pair.difference == pytest.approx(apart.mean())


def test_images_without_a_number_in_a_row_are_left_out_of_both():
    rng = np.random.default_rng(15)
    a, b = rng.random((3, 60)), rng.random((2, 60))
    gaps = a.copy(), b.copy()
    gaps[0][:, :10] = math.nan
    gaps[1][:, 50:] = math.nan
    assert stats.paired(*gaps) == stats.paired(a[:, 10:50], b[:, 10:50])


def test_an_image_may_miss_some_runs():
    a, b = np.random.default_rng(16).random((2, 3, 40))
    a[0, :20] = math.nan
    pair = stats.paired(a, b)
    assert pair.n == 40
    assert pair.difference == pytest.approx(np.nanmean(a, axis=0).mean() - b.mean())
    filled = np.where(np.isnan(a), np.nanmean(a, axis=0), a)
    assert vars(pair) == pytest.approx(vars(stats.paired(filled, b)))


def test_no_images_or_one_allow_nothing():
    empty = stats.paired(np.empty((2, 0)), np.empty((3, 0)))
    assert empty.n == 0 and all(math.isnan(v) for name, v in vars(empty).items() if name != "n")
    one = stats.paired([[0.5], [0.7]], [[0.2], [0.2]])
    assert (one.difference, one.n, one.p) == (pytest.approx(0.4), 1, 1.0) and math.isnan(one.low)


def test_swapped_rows_have_the_mirrored_pair():
    rng = np.random.default_rng(17)
    a, b = correct(rng, 3, 90, level=0.3), correct(rng, 4, 90)
    there, back = stats.paired(a, b), stats.paired(b, a)
    assert back.difference == pytest.approx(-there.difference) and back.p == pytest.approx(there.p)
    assert (back.low_both, back.high_both) == pytest.approx((-there.high_both, -there.low_both))


def test_rows_of_other_images_are_refused():
    with pytest.raises(UserError, match=r"\(3, 5\) and \(3, 6\)"):
        stats.paired(np.zeros((3, 5)), np.zeros((3, 6)))
    with pytest.raises(UserError, match="same images"):
        stats.paired(np.zeros(5), np.zeros(5))
