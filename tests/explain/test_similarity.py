"""Likeness of maps against scipy, closed forms, and the contract that all of the metrics keep."""

from functools import partial

import numpy as np
import pytest
import torch
from scipy import ndimage, stats

from harness.errors import UserError
from harness.explain.similarity import (
    cosine,
    importance,
    kendall,
    lens_kendall,
    lens_precision,
    lens_recall,
    lens_spearman,
    mass_centre,
    spearman,
    ssim,
    top_k,
    topk_intersection,
)


def some(a):
    """A k for maps like a: an eighth of the pixels, at least one."""
    return 1 + a.shape[1] * a.shape[2] // 8


METRICS = {
    "topk_intersection": lambda a, b: topk_intersection(a, b, some(a)),
    "lens_precision": lambda a, b: lens_precision(a, b, some(a)),
    "lens_recall": lambda a, b: lens_recall(a, b, some(a)),
    "kendall": kendall,
    "spearman": spearman,
    "cosine": cosine,
    "lens_kendall": lens_kendall,
    "lens_spearman": lens_spearman,
    "ssim": ssim,
}
SHAPES = [(1, 1), (1, 2), (2, 2), (1, 9), (7, 5), (8, 8), (13, 11)]
KINDS = {
    "normal": torch.randn,
    "related": lambda *shape, **kw: torch.randn(*shape, **kw) + torch.linspace(0, 4, shape[-1], **kw),
    "few values": lambda *shape, **kw: torch.randint(4, shape).to(**kw),
    "two values": lambda *shape, **kw: torch.randint(2, shape).to(**kw),
    "half zero": lambda *shape, **kw: torch.rand(*shape, **kw) * torch.randint(2, shape),
    "rare": lambda *shape, **kw: (torch.rand(*shape, **kw) - 0.9).relu(),
    "constant": torch.ones,
}


def pairs_of_maps(each=1):
    """In every shape one batch, of every kind of map beside every kind, float64."""
    for shape in SHAPES:
        pairs = [(f, g) for f in KINDS.values() for g in KINDS.values() for _ in range(each)]
        a, b = (torch.cat([pair[i](1, *shape, dtype=torch.float64) for pair in pairs]) for i in (0, 1))
        yield a, b


def by_scipy(correlation, a, b):
    """scipy's number for each image, with our convention for constant maps, which scipy leaves open."""
    scores = []
    for x, y in zip(a.flatten(1).cpu().numpy(), b.flatten(1).cpu().numpy(), strict=True):
        constant = [np.ptp(x) == 0, np.ptp(y) == 0]
        scores.append(float(all(constant)) if any(constant) else correlation(x, y).statistic)
    return torch.tensor(scores, dtype=torch.float64)


def window_averages(a, w):
    """The mean over the part of each window that lies in the image, one window after the other."""
    out = torch.empty_like(a)
    for i in range(a.shape[1]):
        for j in range(a.shape[2]):
            window = a[:, max(i - w, 0) : i + w + 1, max(j - w, 0) : j + w + 1]
            out[:, i, j] = window.flatten(1).mean(1)
    return out


def spots(shape, *places):
    """One map, 1 at those places and 0 elsewhere."""
    a = torch.zeros(1, *shape)
    for i, j in places:
        a[0, i, j] = 1
    return a


# Rank correlations against scipy


@pytest.mark.parametrize("ours, scipys", [(kendall, stats.kendalltau), (spearman, stats.spearmanr)])
def test_rank_correlations_are_those_of_scipy(ours, scipys):
    for a, b in pairs_of_maps(each=2):
        torch.testing.assert_close(ours(a, b), by_scipy(scipys, a, b), rtol=0, atol=1e-12)


@pytest.mark.parametrize("ours, scipys", [(kendall, stats.kendalltau), (spearman, stats.spearmanr)])
@pytest.mark.parametrize("shape", [(64, 64), (224, 224)])
def test_rank_correlations_of_large_maps(ours, scipys, shape):
    """To 1e-11: a single pair of the 1.26e9 of the larger shape would show in tau."""
    a = torch.rand(3, *shape, dtype=torch.float64)
    b = 0.3 * a + torch.rand(3, *shape, dtype=torch.float64)
    a[1], b[1] = (20 * a[1]).round(), (20 * b[1]).round()
    a[2] = (a[2] - 0.5).relu()
    torch.testing.assert_close(ours(a, b), by_scipy(scipys, a, b), rtol=0, atol=1e-11)


@pytest.mark.parametrize("n", [2, 3, 4])
def test_rank_correlations_of_every_order(n):
    b = torch.cartesian_prod(*[torch.arange(n, dtype=torch.float64)] * n)[:, None]  # with every pattern of ties
    for a in (torch.arange(n), torch.tensor([0, 1, 1, 2][:n])):
        a = a.to(b).expand_as(b)
        torch.testing.assert_close(kendall(a, b), by_scipy(stats.kendalltau, a, b), rtol=0, atol=1e-12)
        torch.testing.assert_close(spearman(a, b), by_scipy(stats.spearmanr, a, b), rtol=0, atol=1e-12)


@pytest.mark.parametrize("correlation", [kendall, spearman])
def test_the_reversed_order_is_minus_1_and_a_monotone_change_is_none(correlation):
    for kind in ("normal", "few values", "half zero"):
        a = KINDS[kind](4, 9, 6, dtype=torch.float64)
        assert (correlation(a, -a) == -1).all() and (correlation(a, a.exp()) == 1).all()
        b = torch.randn(4, 9, 6, dtype=torch.float64)
        torch.testing.assert_close(correlation(a, -b), -correlation(a, b), rtol=0, atol=1e-15)
        assert torch.equal(correlation(a, b), correlation(a.exp(), 3 * b - 7))


@pytest.mark.parametrize("metric", [kendall, spearman, lens_kendall, lens_spearman])
def test_constant_maps(metric):
    varies = torch.rand(2, 7, 5)
    for value in (0.0, 0.1, 35.0):  # the average of nine times 0.1 is 0.1 in exact sums only
        constant = torch.full_like(varies, value)
        assert metric(constant, constant + 1).tolist() == [1, 1]
        assert metric(constant, varies).tolist() == [0, 0] == metric(varies, constant).tolist()


def test_minus_zero_is_zero():
    a = torch.tensor([[[0.0, -0.0, 0.0, 1.0]]])
    b = torch.tensor([[[0.0, 1.0, 2.0, 3.0]]])
    for correlation in (kendall, spearman):
        assert correlation(a, b) == correlation(a.abs(), b) and correlation(a, a.abs()) == 1
    assert torch.equal(top_k(a - 1 * (a > 0), 2), top_k(a.abs() - 1 * (a > 0), 2))


# The contract, over every metric


@pytest.mark.parametrize("name", METRICS)
def test_a_map_is_like_itself(name):
    for a, _ in pairs_of_maps():
        assert (METRICS[name](a, a.clone()) == 1).all()
        assert METRICS[name](a.float(), a.float()).dtype == torch.float32
        assert METRICS[name](a.float(), a).dtype == torch.float64


@pytest.mark.parametrize("name", METRICS)
def test_scores_lie_in_their_range_one_for_each_image(name):
    least = -1 if name in ("kendall", "spearman", "cosine", "lens_kendall", "lens_spearman", "ssim") else 0
    for a, b in pairs_of_maps():
        score = METRICS[name](a, b)
        assert score.shape == a.shape[:1] and score.dtype == torch.float64
        assert (score >= least).all() and (score <= 1).all()
    assert METRICS[name](torch.rand(0, 7, 5), torch.rand(0, 7, 5)).shape == (0,)


@pytest.mark.parametrize("name", METRICS)
def test_an_image_is_scored_by_itself(name):
    a, b = torch.rand(6, 13, 11), torch.rand(6, 13, 11)
    a[1], a[2], b[3] = 0.5, (4 * a[2]).round(), 0
    alone = torch.cat([METRICS[name](x, y) for x, y in zip(a.split(1), b.split(1), strict=True)])
    torch.testing.assert_close(METRICS[name](a, b), alone, rtol=0, atol=1e-7 if name in ("cosine", "ssim") else 0)
    assert torch.equal(METRICS[name](a.flip(0), b.flip(0)), METRICS[name](a, b).flip(0))


@pytest.mark.parametrize(
    "name", ["topk_intersection", "kendall", "spearman", "cosine", "lens_kendall", "lens_spearman", "ssim"]
)
def test_neither_map_is_the_first(name):
    for a, b in pairs_of_maps():
        torch.testing.assert_close(METRICS[name](a, b), METRICS[name](b, a), rtol=0, atol=1e-15)


@pytest.mark.parametrize("name", METRICS)
def test_maps_are_left_alone_and_carry_no_gradient_on(name):
    a, b = torch.rand(4, 7, 5), torch.randn(4, 7, 5)
    expected = METRICS[name](a, b)
    for layout in ((0, 1, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)):  # of the same values in memory
        back = [layout.index(i) for i in range(3)]
        x, y = (m.permute(layout).contiguous().permute(back).requires_grad_(True) for m in (a, b))
        score = METRICS[name](x, y)
        assert torch.equal(score, expected) and not score.requires_grad
        assert torch.equal(x, a) and torch.equal(y, b)


@pytest.mark.parametrize("name", METRICS)
def test_half_precision_is_scored_in_single(name):
    a, b = torch.rand(2, 6, 6).bfloat16(), torch.rand(2, 6, 6).bfloat16()
    torch.testing.assert_close(METRICS[name](a, b), METRICS[name](a.float(), b.float()))


@pytest.mark.parametrize("name", METRICS)
def test_new_tensors_are_made_where_the_maps_are(name):
    """Whatever is made without a device would lie on `meta` here, and not mix with the maps."""
    a, b = torch.rand(2, 6, 6), torch.rand(2, 6, 6)
    with torch.device("meta"):
        score, centre = METRICS[name](a, b), mass_centre(a)
    assert score.device == centre.device == a.device


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", METRICS)
def test_a_gpu_gives_the_same(name):
    a, b = torch.rand(4, 64, 64), torch.rand(4, 64, 64)
    a[0], b[1], b[2] = (4 * a[0]).round(), (b[1] - 0.5).relu(), 0
    b[0] = -(4 * b[0]).round()  # among them -0
    score = METRICS[name](a.cuda(), b.cuda())
    assert score.is_cuda
    torch.testing.assert_close(score.cpu(), METRICS[name](a, b), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", METRICS)
def test_what_cannot_be_compared_is_a_mistake_of_one_line(name):
    a = torch.rand(2, 4, 4)
    for value in (torch.nan, torch.inf):
        bad = a.clone()
        bad[1, 2, 3] = value
        for pair in ((a, bad), (bad, a)):
            with pytest.raises(UserError, match=r"^an attribution map has values that are not finite$"):
                METRICS[name](*pair)
    with pytest.raises(UserError, match=r"^attribution maps must have one shape \(B, H, W\), not .* and \(., 4, 4\)$"):
        METRICS[name](a, a[:1])
    with pytest.raises(UserError, match=r"^attribution maps must have one shape \(B, H, W\), not "):
        METRICS[name](a[:, None], a[:, None])


# SSIM


def ssim_of_pixels(a, b, value_range):
    """SSIM of two maps (H, W), one pixel and its window after the other, and the values themselves."""
    c1, c2 = (0.01 * value_range) ** 2, (0.03 * value_range) ** 2
    out = np.empty(a.shape)
    for i, j in np.ndindex(a.shape):
        here = np.s_[max(i - 5, 0) : i + 6, max(j - 5, 0) : j + 6]
        rows, columns = (place[here] for place in np.indices(a.shape))
        w = np.exp(-((rows - i) ** 2 + (columns - j) ** 2) / (2 * 1.5**2))
        w = w / w.sum()
        x, y = (w * a[here]).sum(), (w * b[here]).sum()
        var_x, var_y = (w * (a[here] - x) ** 2).sum(), (w * (b[here] - y) ** 2).sum()
        cov = (w * (a[here] - x) * (b[here] - y)).sum()
        out[i, j] = (2 * x * y + c1) * (2 * cov + c2) / ((x * x + y * y + c1) * (var_x + var_y + c2))
    return out


def test_ssim_by_pixels():
    for a, b in pairs_of_maps():
        for value_range in (1.0, 4.0):
            pairs = zip(a.numpy(), b.numpy(), strict=True)
            expected = torch.tensor([ssim_of_pixels(x, y, value_range).mean() for x, y in pairs])
            torch.testing.assert_close(ssim(a, b, value_range), expected, rtol=0, atol=1e-12)


def test_inside_the_image_ssim_is_that_of_scipys_gaussian_filter():
    a, b = torch.rand(2, 24, 20, dtype=torch.float64).numpy()
    mean = partial(ndimage.gaussian_filter, sigma=1.5, radius=5)
    x, y = mean(a), mean(b)
    var_x, var_y, cov = mean(a * a) - x * x, mean(b * b) - y * y, mean(a * b) - x * y
    expected = (2 * x * y + 1e-4) * (2 * cov + 9e-4) / ((x * x + y * y + 1e-4) * (var_x + var_y + 9e-4))
    np.testing.assert_allclose(ssim_of_pixels(a, b, 1.0)[5:-5, 5:-5], expected[5:-5, 5:-5], rtol=0, atol=1e-12)


def test_ssim_of_constant_maps_in_closed_form():
    """Only the means differ: (2 x y + c) / (x^2 + y^2 + c)."""
    a, b = torch.full((1, 6, 9), 0.2, dtype=torch.float64), torch.full((1, 6, 9), 0.7, dtype=torch.float64)
    expected = (2 * 0.14 + 1e-4) / (0.04 + 0.49 + 1e-4)
    torch.testing.assert_close(ssim(a, b), torch.tensor([expected], dtype=torch.float64), rtol=0, atol=1e-12)
    c = 1e-4 * 255**2
    expected = (2 * 0.14 * 255**2 + c) / (0.53 * 255**2 + c)  # in units of 255ths the same
    torch.testing.assert_close(ssim(255 * a, 255 * b, 255).item(), expected, rtol=0, atol=1e-12)


def test_a_negative_has_a_negative_structure():
    a = torch.rand(1, 12, 12, dtype=torch.float64)
    assert -1 <= ssim(a, 1 - a) < -0.5 < 0.9 < ssim(a, a + 0.01 * torch.rand_like(a)) < 1


@pytest.mark.parametrize("value_range", [0, -1.0, float("nan")])
def test_a_value_range_that_is_not_positive_is_a_mistake_of_one_line(value_range):
    with pytest.raises(UserError, match=rf"^the value range of SSIM must be positive, not {value_range}$"):
        ssim(torch.rand(1, 4, 4), torch.rand(1, 4, 4), value_range)


# The k largest


def test_top_k_are_k_of_the_largest():
    for a, _ in pairs_of_maps():
        n = a[0].numel()
        for k in {1, (n + 1) // 2, n}:
            top = top_k(a, k)
            assert top.shape == a.shape and top.dtype == torch.bool
            for values, chosen in zip(a, top, strict=True):
                assert torch.equal(
                    values[chosen].sort(descending=True).values, values.flatten().sort().values.flip(0)[:k]
                )


def test_of_tied_values_the_first_are_chosen():
    a = torch.tensor([[[1.0, 0.0, 1.0], [2.0, 1.0, 1.0]]])
    assert top_k(a, 3).tolist() == [[[True, False, True], [True, False, False]]]
    many = torch.randint(3, (2, 40, 40)).float()
    first = [set(np.argsort(-m, kind="stable")[:500]) for m in many.flatten(1).numpy()]
    assert [set(m.nonzero().flatten().tolist()) for m in top_k(many, 500).flatten(1)] == first
    assert top_k(torch.zeros(2, 3, 3), 4).flatten(1).tolist() == [[True] * 4 + [False] * 5] * 2


@pytest.mark.parametrize("k", [-1, 0, 36])
def test_a_k_that_does_not_fit_is_a_mistake_of_one_line(k):
    a = torch.rand(2, 7, 5)
    for f in (
        lambda: top_k(a, k),
        lambda: topk_intersection(a, a, k),
        lambda: lens_precision(a, a, k),
        lambda: lens_recall(a, a, k),
    ):
        with pytest.raises(
            UserError, match=rf"^k must lie between 1 and the number of pixels of a 7 x 5 map, not be {k}$"
        ):
            f()


def test_intersection_as_sets():
    for a, b in pairs_of_maps():
        a, b = a + torch.rand_like(a) / 1e6, b + torch.rand_like(b) / 1e6  # without ties any order is the same
        k = some(a)
        sets = [[set(np.argsort(m)[-k:]) for m in maps.flatten(1).numpy()] for maps in (a, b)]
        expected = torch.tensor([len(s & t) / k for s, t in zip(*sets, strict=True)], dtype=torch.float64)
        torch.testing.assert_close(topk_intersection(a, b, k), expected)


# LENS


def test_a_square_that_moves_by_one_pixel():
    a = torch.zeros(1, 12, 12)
    a[0, 4:7, 5:8] = 1
    for moved, common in ((a.roll(1, 2), 6), (a.roll((-1, 1), (1, 2)), 4)):
        torch.testing.assert_close(topk_intersection(a, moved, 9), torch.tensor([common / 9]))
        assert lens_precision(a, moved, 9) == lens_recall(a, moved, 9) == 1


def test_spots_that_move_are_near_up_to_w_pixels():
    a = spots((20, 20), (5, 5), (5, 14), (14, 5), (14, 14))
    for distance in (1, 2, 3):
        b = a.roll((distance, -distance), (1, 2))
        assert topk_intersection(a, b, 4) == 0
        for w in (0, 1, 2, 3):
            assert lens_precision(a, b, 4, w) == lens_recall(a, b, 4, w) == float(distance <= w)
    assert lens_precision(a, a.roll(1, 1), 4) == lens_recall(a, a.roll(1, 1), 4) == 1  # w is 1
    assert lens_precision(a, a.roll(2, 1), 4) == lens_recall(a, a.roll(2, 1), 4) == 0


def test_recall_counts_b_and_precision_counts_a_as_in_the_released_scripts():
    a = spots((12, 12), (1, 1), (1, 2), (2, 1), (2, 2))
    b = spots((12, 12), (1, 1), (8, 8), (8, 10), (10, 8))
    assert lens_recall(a, b, 4) == 0.25 and lens_precision(a, b, 4) == 1
    assert lens_recall(b, a, 4) == 1 and lens_precision(b, a, 4) == 0.25


def test_precision_and_recall_by_distances():
    for a, b in pairs_of_maps():
        k, w = some(a), 1
        expected = []
        for top_a, top_b in zip(top_k(a, k), top_k(b, k), strict=True):
            chebyshev = torch.cdist(top_a.nonzero().double(), top_b.nonzero().double(), p=torch.inf)
            expected.append([(chebyshev.amin(d) <= w).double().mean() for d in (0, 1)])
        recall, precision = torch.tensor(expected, dtype=torch.float64).T
        torch.testing.assert_close(lens_precision(a, b, k, w), precision)
        torch.testing.assert_close(lens_recall(a, b, k, w), recall)
        assert (precision >= topk_intersection(a, b, k)).all()


def test_a_window_ends_at_the_border():
    a, b = spots((6, 6), (1, 5)), spots((6, 6), (2, 0))  # neighbours only where rows are joined end to end
    assert lens_precision(a, b, 1) == lens_recall(a, b, 1) == 0


@pytest.mark.parametrize("w", [0, 1, 2, 20])
def test_lens_correlations_are_those_of_window_averages(w):
    a, b = torch.rand(3, 7, 5, dtype=torch.float64), torch.rand(3, 7, 5, dtype=torch.float64)
    if w < 20:
        a_w, b_w = window_averages(a, w), window_averages(b, w)
    else:  # the window is the image
        a_w, b_w = (m.mean((1, 2), keepdim=True).expand_as(m) for m in (a, b))
        a, b = (64 * a).round(), (64 * b).round()  # with exact sums
    torch.testing.assert_close(lens_kendall(a, b, w), by_scipy(stats.kendalltau, a_w, b_w), rtol=0, atol=1e-12)
    torch.testing.assert_close(lens_spearman(a, b, w), by_scipy(stats.spearmanr, a_w, b_w), rtol=0, atol=1e-12)


def test_lens_correlations_forgive_a_small_move():
    a = 0.01 * torch.rand(1, 40, 40) + (torch.rand(1, 40, 40) > 0.9)
    b = a.roll(1, 2)
    assert lens_spearman(a, b) > spearman(a, b) + 0.2 and lens_kendall(a, b) > kendall(a, b) + 0.2
    assert lens_spearman(a, b, 3) > lens_spearman(a, b)


def test_a_negative_window_is_a_mistake_of_one_line():
    a = torch.rand(1, 4, 4)
    for f in (lambda: lens_precision(a, a, 2, -1), lambda: lens_recall(a, a, 2, -1), lambda: lens_kendall(a, a, -1)):
        with pytest.raises(UserError, match=r"^w, the radius of a window in pixels, must not be negative: -1$"):
            f()


# The cosine


def test_cosine_in_closed_form():
    a = torch.tensor([[[3.0, 4.0]], [[1.0, 0.0]], [[0.0, 0.0]], [[0.0, 0.0]], [[1.0, 2.0]]])
    b = torch.tensor([[[4.0, 3.0]], [[0.0, 2.0]], [[0.0, 0.0]], [[5.0, 0.0]], [[-2.0, -4.0]]])
    torch.testing.assert_close(cosine(a, b), torch.tensor([24 / 25, 0, 1, 0, -1]))


def test_cosine_does_not_ask_for_the_scale():
    a, b = torch.randn(4, 7, 5, dtype=torch.float64), torch.randn(4, 7, 5, dtype=torch.float64)
    expected = torch.nn.functional.cosine_similarity(a.flatten(1), b.flatten(1))
    for scale in (1e-200, 1.0, 1e200):
        torch.testing.assert_close(cosine(scale * a, b), expected, rtol=0, atol=1e-12)
    a = torch.randn(1000, 7, 5, dtype=torch.float64)
    assert (cosine(a, 3 * a) <= 1).all() and (cosine(a, 3 * a) > 1 - 1e-12).all()  # rounding leads no further than 1


# Importance and centre of mass


def test_importance_has_mean_1():
    maps = torch.randn(5, 3, 7, 9) * torch.tensor([1.0, 1e-30, 1e30, 1e-44, 0]).view(-1, 1, 1, 1)
    a = importance(maps)
    assert a.shape == (5, 7, 9) and (a >= 0).all() and a.isfinite().all()
    torch.testing.assert_close(a.sum((1, 2)), torch.tensor([63.0, 63, 63, 63, 0]))
    torch.testing.assert_close(a[0] / a[0, 0, 0], maps[0].abs().sum(0) / maps[0, :, 0, 0].abs().sum())
    assert torch.equal(importance(-maps), a)


def test_importance_and_centre_are_differentiable():
    maps = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(importance, maps)
    assert torch.autograd.gradcheck(lambda m: mass_centre(importance(m)), maps)
    zeros = torch.zeros(2, 3, 4, 5, requires_grad=True)
    mass_centre(importance(zeros)).sum().backward()
    assert torch.equal(zeros.grad, torch.zeros_like(zeros))


def test_centre_of_mass():
    a = torch.rand(6, 7, 5, dtype=torch.float64) ** 4
    expected = torch.tensor([ndimage.center_of_mass(m.numpy()) for m in a], dtype=torch.float64)
    torch.testing.assert_close(mass_centre(a), expected)
    torch.testing.assert_close(mass_centre(1e-6 * a), expected)
    assert mass_centre(spots((7, 5), (6, 1))).tolist() == [[6, 1]]
    assert mass_centre(torch.zeros(2, 7, 4)).tolist() == [[3, 1.5]] * 2 == mass_centre(torch.ones(2, 7, 4)).tolist()
