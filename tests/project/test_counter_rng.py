"""The random numbers of images: their words, the distributions, and what devices may differ in."""

import math

import numpy as np
import pytest
import torch
from scipy import special, stats
from torch.utils._python_dispatch import TorchDispatchMode

from harness import counter_rng, randomness
from harness.counter_rng import LARGEST_NORMAL
from harness.randomness import PerImageRng

TOP = 2**64


def splitmix64(seed, count):
    """The published algorithm, step by step with Python's integers."""
    words = []
    for _ in range(count):
        seed = (seed + 0x9E3779B97F4A7C15) % TOP
        z = seed
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % TOP
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % TOP
        words.append(z ^ (z >> 31))
    return words


def signed(words):
    return torch.tensor([[word - TOP if word >= TOP // 2 else word for word in row] for row in words])


def test_words_are_those_of_splitmix64():
    assert splitmix64(1234567, 3) == [6457827717110365317, 3203168211198807973, 9817491932198370423]
    seeds = [1234567, 0, 1, TOP // 2 - 1, TOP // 2, TOP - 1]
    expected = signed([splitmix64(seed, 37) for seed in seeds])
    keys = signed([seeds])[0]
    assert torch.equal(counter_rng.words(keys, 37), expected)
    assert torch.equal(counter_rng.words(keys[:1], 1), expected[:1, :1])


def test_uniform_numbers_and_integers_are_exact_functions_of_the_words():
    words = [[0, 1, 255, 256, 2**31, 2**32 - 1, 2**32, TOP // 2 - 1, TOP // 2, TOP - 2**32, TOP - 1], splitmix64(3, 11)]
    halves = [[half for word in row for half in (word % 2**32, word >> 32)] for row in words]
    expected = torch.tensor([[((half + 2**31) % 2**32 >> 8) / 2**24 for half in row] for row in halves])
    got = counter_rng.uniform(signed(words), torch.empty(2, 22))
    assert torch.equal(got, expected) and got.min() >= 0 and got.max() < 1
    assert torch.equal(counter_rng.uniform(signed(words), torch.empty(2, 21)), expected[:, :21])
    for count in (1, 2, 3, 10, 2**16 + 1, 2**31 - 1):
        expected = torch.tensor([[word * count >> 64 for word in row] for row in words])
        got = counter_rng.integers(signed(words), count, torch.empty(2, 11, dtype=torch.int64))
        assert torch.equal(got, expected)


def test_normal_numbers_agree_with_another_mathematical_library():
    """Python's own, as the one of another device."""
    rows = [splitmix64(seed, 60) for seed in range(50)]
    rows[0][:4] = [0, TOP - 1, TOP // 2, TOP // 2 - 1]  # the largest and the smallest radii
    polar = [
        [(math.sqrt(-2 * math.log(((w >> 32 ^ 2**31) + 0.5) / 2**32)), math.tau * (w % 2**32) / 2**32) for w in row]
        for row in rows
    ]
    expected = [[r * f(angle) for f in (math.cos, math.sin) for r, angle in row] for row in polar]
    exact = counter_rng.normal(signed(rows), torch.empty(50, 120, dtype=torch.float64))
    assert (exact - torch.tensor(expected, dtype=torch.float64)).abs().max() < 1e-14
    assert torch.equal(counter_rng.normal(signed(rows), torch.empty(50, 119)), exact[:, :119].float())
    assert max(r for row in polar for r, _ in row) == pytest.approx(LARGEST_NORMAL, abs=1e-12)


@pytest.mark.parametrize("low, high", [(0, 1), (0, 8), (7.9, 8.1), (8, 20), (20, 100), (100, 600), (600, 1e5)])
def test_poisson_numbers_are_the_quantiles_of_scipy(low, high):
    rng = np.random.default_rng(0)
    z = np.concatenate([rng.normal(size=20_000), rng.uniform(-LARGEST_NORMAL, LARGEST_NORMAL, 20_000)])
    rate = rng.uniform(low, high, 40_000)
    rate[:2] = low, high
    got = counter_rng.poisson_quantile(torch.tensor(z)[None], torch.tensor(rate)[None], torch.empty(1, 40_000)).numpy()
    wrong = (got[0] != stats.poisson.ppf(special.ndtr(z), rate)) & (np.abs(z) < 6)  # beyond, 1 - Phi has few digits
    assert wrong.sum() == 0 and np.abs(got[0] - stats.poisson.ppf(special.ndtr(z), rate)).max() <= 1
    nudged = torch.tensor(z * (1 + 4e-16 * rng.choice([-1, 1], 40_000)))[None]  # as another device rounds
    again = counter_rng.poisson_quantile(nudged, torch.tensor(rate)[None], torch.empty(1, 40_000)).numpy()
    assert (again != got).sum() == 0


def test_of_rate_0_there_is_none_and_of_tiny_rates_hardly_any():
    draws = PerImageRng(torch.arange(500))
    assert not draws.poisson(torch.zeros(500, 40)).any()
    assert draws.poisson(torch.full((500, 40), 1e-3)).sum() in range(5, 45)  # 20 expected


@pytest.mark.parametrize("rate", [0.3, 2.5, 7.99, 8.01, 30, 500])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_poisson_numbers_have_their_distribution(rate, dtype):
    drawn = PerImageRng(torch.arange(1000)).poisson(torch.full((1000, 10, 10), rate, dtype=dtype))
    assert drawn.dtype == dtype and drawn.shape == (1000, 10, 10)
    edges = np.unique(stats.poisson.ppf(np.linspace(0, 1, 21)[1:-1], rate))
    bins = np.bincount(np.searchsorted(edges, drawn.flatten().numpy()), minlength=len(edges) + 1)
    expected = np.diff(np.concatenate([[0], stats.poisson.cdf(edges, rate), [1]])) * drawn.numel()
    assert stats.chisquare(bins, expected).pvalue > 1e-3


NEIGHBOURS = {  # seeds that differ in few bits, or by the generator's own step; images' own seeds are hashes
    "counted": torch.arange(4096),
    "high bits": torch.arange(4096) << 51,
    "steps": torch.arange(4096) * counter_rng._STEP,
}


@pytest.mark.parametrize("seeds", NEIGHBOURS.values(), ids=NEIGHBOURS)
def test_images_of_neighbouring_seeds_draw_independently(seeds):
    drawn = PerImageRng(seeds).uniform(66)
    assert stats.kstest(drawn.flatten(), "uniform").pvalue > 1e-3
    pairs = {
        "seeds": (drawn[:-1], drawn[1:]),
        "numbers": (drawn[:, :-1], drawn[:, 1:]),
        "halves of words": (drawn[:, ::2], drawn[:, 1::2]),
        "calls": (drawn, _second_call(seeds)),
        "streams": (drawn, PerImageRng(seeds).stream(0).uniform(66)),
        "streams of neighbouring names": (PerImageRng(seeds, (1,)).uniform(66), PerImageRng(seeds, (2,)).uniform(66)),
        "shifted": (drawn[:-1, 2:], drawn[1:, :-2]),
    }
    for of, (a, b) in pairs.items():
        cells = (a * 16).long() * 16 + (b * 16).long()  # joint, so any dependence counts and not only correlation
        assert stats.chisquare(torch.bincount(cells.flatten(), minlength=256)).pvalue > 1e-4, of
        assert abs(np.corrcoef(a.flatten(), b.flatten())[0, 1]) < 4 * a.numel() ** -0.5, of


def _second_call(seeds):
    draws = PerImageRng(seeds)
    draws.uniform(66)
    return draws.uniform(66)


def test_each_bit_of_a_seed_flips_half_of_the_bits():
    seeds = torch.arange(4000)
    keys = counter_rng.words(counter_rng.mix(seeds.clone()), 2)
    place = torch.arange(64)
    for bit in range(63):
        changed = counter_rng.words(counter_rng.mix(seeds ^ (1 << bit)), 2) ^ keys
        share = ((changed[..., None] >> place) & 1).double().mean(0)
        assert (share - 0.5).abs().max() < 5.5 * 0.5 / 4000**0.5, bit  # 8064 shares in all


@pytest.mark.parametrize("words", [1, 100, 10**6])
def test_how_many_are_made_together_changes_no_number(words, monkeypatch):
    rate = torch.rand(7, 3, 5, 5, generator=torch.Generator().manual_seed(0)) * 60
    drawn = {
        "uniform": lambda draws: draws.uniform(3, 5, 5),
        "normal": lambda draws: draws.normal(3, 5, 5),
        "integers": lambda draws: draws.integers(-3, 9, 3, 5, 5),
        "poisson": lambda draws: draws.poisson(rate[: len(draws)]),
    }
    before = {name: draw(PerImageRng(torch.arange(7))) for name, draw in drawn.items()}
    monkeypatch.setitem(randomness.WORDS, "cpu", words)
    for name, draw in drawn.items():
        assert torch.equal(draw(PerImageRng(torch.arange(7))), before[name]), name
        assert torch.equal(draw(PerImageRng(torch.arange(2))), before[name][:2]), name


class Operations(TorchDispatchMode):
    """Counts torch's operations: an accelerator launches as many kernels, or fewer."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("draw", [lambda d: d.uniform(3, 8), lambda d: d.normal(3, 8), lambda d: d.integers(0, 9, 4)])
def test_nothing_is_done_image_by_image_or_on_the_host(draw):
    counts = []
    for images in (2, 600):
        with Operations() as operations:
            draw(PerImageRng(torch.arange(images)))
        counts.append(operations.count)
    assert counts[0] == counts[1] < 60
    on_meta = draw(PerImageRng(torch.arange(5, device="meta")))  # there is nothing there to copy to the host
    assert on_meta.device.type == "meta" and on_meta.shape[0] == 5


@pytest.mark.parametrize("low, high", [(0, 0), (3, 2), (0, 2**31)])
def test_no_integers_or_too_many_are_refused(low, high):
    with pytest.raises(ValueError, match="integers from"):
        PerImageRng(torch.arange(2)).integers(low, high, 3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_draws_the_same():
    here, there = PerImageRng(torch.arange(300)), PerImageRng(torch.arange(300, device="cuda"))
    rate = torch.rand(300, 50, generator=torch.Generator().manual_seed(0)).double() * 100
    assert torch.equal(here.uniform(3, 9), there.uniform(3, 9).cpu())
    assert torch.equal(here.integers(-5, 99, 9), there.integers(-5, 99, 9).cpu())
    assert (here.normal(3, 9) - there.normal(3, 9).cpu()).abs().max() < 1e-6
    assert (here.poisson(rate) != there.poisson(rate.cuda()).cpu()).sum() == 0
