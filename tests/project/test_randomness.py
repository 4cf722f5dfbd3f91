"""Random numbers that belong to an image: their distribution, and what they do not depend on."""

import pytest
import torch
from scipy import stats

from harness.randomness import PerImageRng, derive_seed, full_float32, seeded

DRAWN = {
    "uniform": lambda draws: draws.uniform(3, 4),
    "normal": lambda draws: draws.normal(3, 4),
    "integers": lambda draws: draws.integers(-2, 5, 6),
    "poisson": lambda draws: draws.poisson(torch.full((len(draws), 5), 3.0)),
}


@pytest.mark.parametrize("name", DRAWN)
def test_an_image_draws_the_same_in_any_batch_and_at_any_place(name):
    draw, seeds = DRAWN[name], torch.tensor([5, 2**62, 17, 5])
    whole = draw(PerImageRng(seeds))
    assert torch.equal(whole[0], whole[3]) and not torch.equal(whole[0], whole[1])
    order = torch.tensor([2, 0, 1])
    assert torch.equal(draw(PerImageRng(seeds[order])), whole[order])
    assert torch.equal(draw(PerImageRng(seeds).select(slice(1, 3))), whole[1:3])
    torch.rand(7)
    with seeded("else"):
        assert torch.equal(draw(PerImageRng(seeds)), whole)


def test_every_call_and_every_stream_is_new():
    draws = PerImageRng(torch.arange(3))
    parts = [draws.uniform(4), draws.uniform(4), draws.stream("a").uniform(4), draws.stream("b").uniform(4)]
    parts += [draws.stream("a", 1).uniform(4), PerImageRng(torch.arange(3), ("a", 2)).uniform(4)]
    assert len({p[0, 0].item() for p in parts}) == len(parts)
    assert torch.equal(draws.stream("a").uniform(4), draws.stream("a").uniform(4))
    assert torch.equal(draws.stream("a").select(slice(2)).uniform(4), parts[2][:2])


def test_the_distributions_are_those_that_they_are_called():
    draws = PerImageRng(torch.arange(2000))
    assert stats.kstest(draws.uniform(5).flatten(), "uniform").pvalue > 1e-3
    assert stats.kstest(draws.normal(5).flatten(), "norm").pvalue > 1e-3
    counts = torch.bincount(draws.integers(0, 6, 5).flatten(), minlength=6)
    assert len(counts) == 6 and stats.chisquare(counts).pvalue > 1e-3
    photons = draws.poisson(torch.full((2000, 5), 2.5)).flatten()
    seen = torch.bincount(photons.long(), minlength=9)[:9]
    expected = stats.poisson(2.5).pmf(range(9)) * len(photons)
    assert stats.chisquare(seen.numpy() * (expected.sum() / int(seen.sum())), expected).pvalue > 1e-3


def test_images_draw_independently_of_each_other():
    u = PerImageRng(torch.arange(400)).normal(300)
    correlations = torch.corrcoef(u)[~torch.eye(400, dtype=torch.bool)]
    assert correlations.abs().max() < 0.35 and abs(float(correlations.std()) - 300**-0.5) < 0.002
    assert len({derive_seed(seed, (), 0) for seed in range(400)}) == 400


def test_no_images_draw_nothing_and_rates_are_left_alone():
    assert PerImageRng(torch.empty(0, dtype=torch.int64)).uniform(2).shape == (0, 2)
    rate = torch.rand(2, 3) * 9
    before = rate.clone()
    PerImageRng(torch.arange(2)).poisson(rate)
    assert torch.equal(rate, before)


def test_on_a_cpu_no_gpu_is_asked_for_its_state_or_seeded(monkeypatch):
    def opens_a_context(*args):
        raise AssertionError("a worker on the CPU opens a context on a GPU")

    for name in (
        "get_rng_state",
        "set_rng_state",
        "manual_seed",
        "manual_seed_all",
        "device_count",
        "init",
        "_lazy_call",
    ):
        monkeypatch.setattr(torch.cuda, name, opens_a_context)
    before = torch.get_rng_state()
    with seeded("draws"):
        drawn = torch.rand(3)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(drawn, torch.rand(3, generator=torch.Generator().manual_seed(derive_seed("draws"))))


def test_of_several_gpus_only_the_named_one_is_seeded_and_restored(monkeypatch):
    states, current = {0: "a", 1: "b", 2: "c"}, []

    class Device:
        def __init__(self, device):
            self.index = torch.device(device).index

        def __enter__(self):
            current.append(self.index)

        def __exit__(self, *error):
            current.pop()

    def index(device):
        return torch.device(device).index

    monkeypatch.setattr(torch.cuda, "device", Device)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: states[index(device)])
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: states.update({index(device): state}))
    monkeypatch.setattr(torch.cuda, "manual_seed", lambda seed: states.update({current[-1]: seed}))
    with seeded("draws", device="cuda:1"):
        assert states == {0: "a", 1: derive_seed("draws"), 2: "c"}
    assert states == {0: "a", 1: "b", 2: "c"}


def test_full_float32_turns_off_tf32_and_nothing_else():
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    flags = ("enabled", "benchmark", "deterministic")
    before = [getattr(cudnn, flag) for flag in flags]
    matmul.allow_tf32 = cudnn.allow_tf32 = True
    try:
        with full_float32():
            assert not matmul.allow_tf32 and not cudnn.allow_tf32
            assert cudnn.enabled and [getattr(cudnn, flag) for flag in flags] == before
        assert matmul.allow_tf32 and cudnn.allow_tf32
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = False, True
