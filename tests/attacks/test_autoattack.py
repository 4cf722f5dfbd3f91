"""AutoAttack, attack by attack, against linear models and against the package's own cascade."""

import sys

import pytest
import torch
from torch import nn

from harness.attacks.autoattack import ATTACKS, attack
from harness.config.trial import build
from harness.data import datasets
from harness.errors import UserError
from harness.models.freezing import frozen
from harness.models.nets import build as build_net
from harness.trials import run as trial_run

NORMS = ("linf", "l2")


@pytest.fixture
def package():
    return pytest.importorskip("pyautoattack", reason="the package pyautoattack is not installed")


@pytest.fixture
def net():
    """A net with BatchNorm, in channels-last memory as everywhere, images, and their predicted classes."""
    torch.manual_seed(0)
    net = build_net("small", 1, 5)
    x = torch.rand(4, 1, 8, 8)
    for _ in range(3):
        net(x)
    net.eval()
    with torch.no_grad():
        net.head.bias -= net(x).mean(0)
        return net, x, net(x).argmax(1)


class Linear(nn.Module):
    """So many classes of 1x6x6 images, of which only the first two are ever predicted: logits 0, w x + b, -20, ..."""

    def __init__(self, classes):
        super().__init__()
        torch.manual_seed(2)
        self.w, self.classes = nn.Parameter(torch.randn(36)), classes

    def forward(self, x):
        f = (x - 0.5).flatten(1) @ self.w
        others = torch.full((len(x), self.classes - 2), -20.0)
        return torch.cat([torch.zeros(len(x), 1), f[:, None], others], 1)


def predicted(model, x):
    with torch.no_grad():
        return model(x).argmax(1)


def size(delta, norm):
    return delta.flatten(1).abs().amax(1) if norm == "linf" else delta.flatten(1).norm(dim=1)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ATTACKS)
def test_result_lies_in_the_ball_and_breaks_a_weak_net(package, net, name, norm):
    model, x, y = net
    eps = {"linf": 0.1, "l2": 0.8}[norm]
    z = attack(name, model, x, y, eps=eps, norm=norm)
    assert z.shape == x.shape and z.dtype == x.dtype and not z.requires_grad
    assert size(z - x, norm).max() <= eps + 1e-6
    assert z.min() >= 0 and z.max() <= 1
    assert (predicted(model, z) != y).all()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("name", ATTACKS[:3])
def test_gradient_attacks_break_what_can_be_broken_of_a_linear_model(package, name, classes, norm):
    """The distance to the border is |f| over the dual norm of w; fewer than four classes are no obstacle."""
    model = Linear(classes)
    x = 0.4 + 0.2 * torch.rand(20, 1, 6, 6)
    with torch.no_grad():
        f = model(x)[:, 1]
        distance = f.abs() / (model.w.abs().sum() if norm == "linf" else model.w.norm())
    eps = distance.median().item()
    sure = ((distance / eps - 1).abs() > 0.01).nonzero().squeeze(1)
    x, y, breakable = x[sure], (f > 0).long()[sure], distance[sure] < eps
    assert 5 <= breakable.sum() <= 15
    z = attack(name, model, x, y, eps=eps, norm=norm)
    assert torch.equal(predicted(model, z) != y, breakable)
    assert torch.equal(z[~breakable], x[~breakable])


@pytest.mark.sample("linf")
@pytest.mark.parametrize("norm", NORMS)
def test_square_breaks_only_what_can_be_broken(package, norm):
    model = Linear(3)
    x = 0.4 + 0.2 * torch.rand(2, 1, 6, 6)
    with torch.no_grad():
        f = model(x)[:, 1]
        distance = f.abs() / (model.w.abs().sum() if norm == "linf" else model.w.norm())
    y = (f > 0).long()
    assert torch.equal(attack("square", model, x[:1], y[:1], eps=0.99 * distance[0].item(), norm=norm), x[:1])
    z = attack("square", model, x, y, eps=4 * distance.max().item(), norm=norm)
    assert (predicted(model, z) != y).all()


@pytest.mark.parametrize("name", ATTACKS)
def test_the_model_the_generator_and_the_gradients_stay_as_they_were(package, net, name):
    model, x, y = net
    model.features.norms[0].train()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    modes = [m.training for m in model.modules()]
    before = torch.random.get_rng_state()
    x.requires_grad_(True)
    kept = x.detach().clone()
    attack(name, model, x, y, eps=0.1)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert x.grad is None and torch.equal(x, kept)
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


@pytest.mark.sample("apgd-ce", "square")
@pytest.mark.parametrize("name", ATTACKS)
def test_layout_and_repetition_give_the_same_image(package, net, name):
    model, x, y = net
    z = attack(name, model, x, y, eps=0.1, seed=1)
    assert torch.equal(attack(name, model, x, y, eps=0.1, seed=1), z)
    last = attack(name, model, x.contiguous(memory_format=torch.channels_last), y, eps=0.1, seed=1)
    assert torch.equal(last, z)
    if name != "fab-t":  # which starts at the image itself
        assert not torch.equal(attack(name, model, x, y, eps=0.1, seed=2), z)


@pytest.mark.sample("apgd-ce", "square")
@pytest.mark.parametrize("name", ATTACKS)
def test_wrong_images_no_images_and_no_eps_change_nothing(package, net, name):
    model, x, y = net
    y = torch.cat([y[:2], (y[2:] + 1) % 5])
    z = attack(name, model, x, y, eps=0.1)
    assert torch.equal(z[2:], x[2:]) and not torch.equal(z[:2], x[:2])
    assert torch.equal(attack(name, model, x, y, eps=0), x)
    assert attack(name, model, x[:0], y[:0], eps=0.1).shape == (0, 1, 8, 8)
    assert attack(name, model, x[:1], y[:1], eps=0.1).shape == (1, 1, 8, 8)


def test_zero_gradients_are_logged_not_printed(package, capfd, caplog):
    model = Linear(5)
    model.w.data.zero_()
    x = torch.rand(2, 1, 6, 6)
    with caplog.at_level("WARNING"):
        attack("apgd-t", model, x, torch.zeros(2, dtype=torch.long), eps=0.1)
    assert "zero gradient" in caplog.text
    assert capfd.readouterr() == ("", "")


def test_mistakes(package, net, monkeypatch):
    model, x, y = net
    with pytest.raises(UserError, match="attack 'apgd-dlr' is not known; did you mean 'apgd-"):
        attack("apgd-dlr", model, x, y, eps=0.1)
    with pytest.raises(UserError, match="at least 5x5 pixels, not 8x4"):
        attack("square", model, x[:, :, :4], y, eps=0.1, norm="l2")
    monkeypatch.setitem(sys.modules, "pyautoattack", None)
    with pytest.raises(UserError, match=r"pip install pyautoattack==0\.2\.0"):
        attack("square", model, x, y, eps=0.1)


@pytest.mark.slow
def test_our_cascade_is_the_cascade_of_the_package(package, shared_workspace):
    run = build({"method": "pgd", "epochs": 8, "measure.watch": 8, "measure.steps": 2})
    model, _ = trial_run.trained_model(run, shared_workspace)
    test = datasets.load(run.data, shared_workspace).test
    x, y = test.x[:16].float().div(255), test.y[:16]
    robust = predicted(model, x) == y
    counts = [robust.sum().item()]
    for name in ATTACKS:
        left = robust.nonzero().squeeze(1)
        z = attack(name, model, x[left], y[left], eps=24 / 255, seed=5)
        robust[left] = predicted(model, z) == y[left]
        counts.append(robust.sum().item())
    whole = package.AutoAttack(model, eps=24 / 255, seed=5, version="standard")
    with frozen(model):
        z, _ = whole.run_standard_evaluation(x, y, batch_size=16)
    assert torch.equal(predicted(model, z) == y, robust)
    assert counts[0] > counts[1] >= counts[2] >= counts[3] >= counts[4] > 0
