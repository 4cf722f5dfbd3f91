"""Training methods: a contract over every name, and the formulas of the papers as oracles."""

import dataclasses
import math
import sys
from itertools import pairwise

import pytest
import torch
from torch.nn import functional as F

import methods
from harness.contracts.methods import CONTRACT
from harness.data.batches import Batch
from harness.errors import UserError
from harness.models import nets
from harness.models.freezing import frozen
from methods.noise import uniform_noise
from methods.sat import mixed_signs, random_share, saliency_step


@pytest.fixture
def net():
    return nets.build("small", 3, 5)


@pytest.fixture
def batch():
    s = torch.randint(2, (6, 3, 8, 8)).float() * 2 - 1
    return Batch(torch.rand(6, 3, 8, 8), torch.randint(5, (6,)), s, epoch=4.0, epochs=10)


@pytest.mark.parametrize("promise", CONTRACT, ids=lambda promise: promise.__name__)
@pytest.mark.parametrize("name", methods.names())
def test_contract(name, promise):
    promise(name)


def test_the_published_values_are_the_defaults():
    sat, pgd, trades = methods.make("sat"), methods.make("pgd"), methods.make("trades")
    assert (sat.eps, sat.alpha10, sat.schedule, sat.per) == (8 / 255, 0.6, "power", "epoch")
    assert (pgd.eps, pgd.step, pgd.steps) == (8 / 255, 2 / 255, 5)
    assert trades.beta == 1.0
    assert methods.make("pgd_sat").flip == methods.make("trades_noise").flip == 0.5


def test_random_share_follows_the_published_table():
    saliency = {0: 0.0, 1: 0.050, 5: 0.225, 10: 0.40, 20: 0.64, 30: 0.784, 50: 0.922, 99: 0.994}
    for epoch, p in saliency.items():
        assert 1 - random_share("power", 0.6, epoch) == pytest.approx(p, abs=5e-4)


@pytest.mark.parametrize("schedule", ["power", "linear", "step", "cosine"])
def test_share_starts_at_one_and_falls(schedule):
    shares = [random_share(schedule, 0.6, e) for e in range(0, 60)]
    assert shares[0] == 1.0
    assert all(a >= b for a, b in pairwise(shares))
    assert all(0 <= s <= 1 for s in shares)


def test_share_after_ten_epochs_is_alpha10():
    for schedule in ("power", "linear", "step", "constant"):
        assert random_share(schedule, 0.7, 10) == pytest.approx(0.7)
    assert random_share("step", 0.7, 9.9) == 1.0
    assert random_share("cosine", 0.5, 20) == pytest.approx(0.0)
    assert random_share("constant", 0.3, 50) == 0.3


def test_share_per_epoch_or_per_iteration():
    batch = Batch(torch.zeros(1), torch.zeros(1), epoch=2.5)
    assert methods.make("sat").share(batch) == pytest.approx(0.6**0.2)
    assert methods.make("sat", per="iteration").share(batch) == pytest.approx(0.6**0.25)


def test_sat_step_is_x_minus_eps_times_the_map_once_no_sign_is_random():
    x = torch.full((2, 3, 4, 4), 0.5)
    s = torch.randint(2, (2, 1, 4, 4)).float() * 2 - 1
    assert torch.allclose(saliency_step(x, s, 0.1, 0.0), x - 0.1 * s)
    z = saliency_step(x, s, 0.1, 1.0)
    assert torch.allclose((z - x).abs(), torch.full_like(x, 0.1))
    assert abs(float((z - x).mean())) < 0.05


def test_mixture_is_drawn_value_by_value_in_the_stated_share():
    s = torch.ones(40, 1, 50, 50)
    m = mixed_signs(s, torch.empty(40, 3, 50, 50), share=0.4)
    # a random sign agrees half of the time: P(m = -1) = 0.4 / 2
    assert float((m == -1).float().mean()) == pytest.approx(0.2, abs=0.005)
    assert set(m.unique().tolist()) == {-1.0, 1.0}
    assert not torch.equal(m[:, 0], m[:, 1])  # colours are drawn apart


def test_where_the_map_is_zero_only_random_signs_move_anything():
    m = mixed_signs(torch.zeros(10, 3, 20, 20), torch.empty(10, 3, 20, 20), share=0.25)
    assert float((m == 0).float().mean()) == pytest.approx(0.75, abs=0.02)
    assert abs(float(m.mean())) < 0.05 and set(m.unique().tolist()) == {-1.0, 0.0, 1.0}


def test_sat_of_a_linear_net_is_fgsm_for_two_classes():
    """For a binary linear classifier the map of the true class is exactly the attack's direction."""
    weight = torch.randn(2, 12, dtype=torch.float64)
    x, y = torch.full((4, 12), 0.5, dtype=torch.float64), torch.tensor([0, 1, 0, 1])
    margin = weight[y] - weight[1 - y]
    z = saliency_step(x, margin.sign(), 0.05, 0.0)
    x.requires_grad_(True)
    (g,) = torch.autograd.grad(F.cross_entropy(x @ weight.T, y, reduction="sum"), x)
    assert torch.allclose(z, x + 0.05 * g.sign())


def test_sat_trains_on_the_step_alone(net, batch):
    method = methods.make("sat", alpha10=0.0, schedule="constant")
    expected = F.cross_entropy(net((batch.x - method.eps * batch.s).clamp(0, 1)), batch.y)
    net.eval()
    expected = F.cross_entropy(net((batch.x - method.eps * batch.s).clamp(0, 1)), batch.y)
    assert torch.allclose(method.loss(net, batch)["ce"], expected)


def test_trades_is_cross_entropy_plus_beta_times_the_divergence(net, batch):
    net.eval()
    method = methods.make("trades", beta=2.5, crafting="eval")
    torch.manual_seed(1)
    z = method.perturb(net, batch)
    torch.manual_seed(1)
    terms = method.loss(net, batch)
    p, q = net(batch.x).softmax(1), net(z).softmax(1)
    divergence = (p * (p.log() - q.log())).sum(1).mean()
    assert terms["ce"].item() == pytest.approx(F.cross_entropy(net(batch.x), batch.y).item(), rel=1e-5)
    assert terms["kl"].item() == pytest.approx(2.5 * divergence.item(), rel=1e-3, abs=1e-6)


def test_uniform_noise_has_the_variance_of_its_width():
    x = torch.full((200, 3, 16, 16), 0.5)
    delta = uniform_noise(x, 0.1) - x
    assert delta.abs().max() <= 0.1 + 1e-6
    assert float(delta.std()) == pytest.approx(0.1 / math.sqrt(3), rel=0.01)


@pytest.mark.parametrize("name", ["pgd_sat", "pgd_noise", "trades_sat", "trades_noise"])
def test_the_coin_falls_as_often_as_it_should(name, net, batch, monkeypatch):
    attacked = []
    base = methods.make(name.split("_")[0])
    monkeypatch.setattr(type(base), "perturb", lambda self, model, batch: attacked.append(1) or batch.x)
    method = methods.make(name, flip=0.3)
    with frozen(net), torch.no_grad():
        for _ in range(300):
            method.perturb(net, batch)
    assert 0.6 < len(attacked) / 300 < 0.8


def test_pgd_sat_starts_at_random_as_released_and_can_go_twice_as_far(net, batch):
    batch = dataclasses.replace(batch, x=torch.full_like(batch.x, 0.5))
    far = methods.make("pgd_sat", flip=1.0, alpha10=0.0, schedule="constant").perturb(net, batch) - batch.x
    near = (
        methods.make("pgd_sat", flip=1.0, alpha10=0.0, schedule="constant", start=False).perturb(net, batch) - batch.x
    )
    eps = 8 / 255
    assert eps < far.abs().max() <= 2 * eps + 1e-6
    assert torch.allclose(near, -eps * batch.s, atol=1e-6)


@pytest.mark.parametrize(
    ("text", "said"),
    [("def x(:", "cannot be read: SyntaxError"), ("import nowhere", "cannot be read: Module"), ("", "must define one")],
)
def test_a_broken_method_is_named_in_one_line(text, said, tmp_path, monkeypatch):
    (tmp_path / "broken.py").write_text(text)
    monkeypatch.setattr(methods, "__path__", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "methods.broken", raising=False)
    with pytest.raises(UserError, match=f"^method 'broken' {said}"):
        methods.make("broken")
