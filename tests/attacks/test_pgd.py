"""Attacks against models whose worst case is known, and the contract that all of them keep."""

import copy

import pytest
import torch
from torch import nn
from torch.distributions import Categorical, kl_divergence
from torch.nn import functional as F

from harness.attacks.pgd import ascend, clip, cross_entropy, divergence, fgsm, pgd, pgd_kl, pgd_until_broken
from harness.models.freezing import frozen
from harness.models.nets import build
from harness.randomness import PerImageRng

ATTACKS = {
    "fgsm": (fgsm, "linf"),
    "pgd_kl": (lambda model, x, y, *, eps: pgd_kl(model, x, eps=eps, step=eps / 2, steps=3), "linf"),
}
for norm in ("linf", "l2"):
    for start in ("uniform", "gauss", "none"):
        ATTACKS[f"pgd {norm} {start}"] = (
            lambda model, x, y, *, eps, norm=norm, start=start: pgd(
                model, x, y, eps=eps, step=eps / 2, steps=3, start=start, norm=norm
            ),
            norm,
        )
    ATTACKS[f"pgd_until_broken {norm}"] = (
        lambda model, x, y, *, eps, norm=norm: pgd_until_broken(model, x, y, eps=eps, step=eps / 2, steps=3, norm=norm),
        norm,
    )


class Linear(nn.Module):
    """Two classes of 1x4x4 images, logits 0 and w x + b; the border and every worst case are known."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.w = nn.Parameter(torch.randn(16, dtype=torch.float64))
        self.b = nn.Parameter(-0.5 * self.w.detach().sum())

    def f(self, x):
        return x.flatten(1) @ self.w + self.b

    def forward(self, x):
        return torch.stack([torch.zeros(len(x), dtype=x.dtype), self.f(x)], 1)


@pytest.fixture
def linear():
    """The model, images in [0.3, 0.7], labels, and the signed margin of each."""
    model = Linear()
    x = 0.3 + 0.4 * torch.rand(200, 1, 4, 4, dtype=torch.float64)
    y = torch.randint(2, (200,))
    return model, x, y, ((2 * y - 1) * model.f(x)).detach()


@pytest.fixture
def net():
    """A small net with BatchNorm, its images and labels."""
    torch.manual_seed(0)
    net = build("small", 1, 5)
    x, y = torch.rand(8, 1, 8, 8), torch.randint(5, (8,))
    for _ in range(3):
        net(x)  # some running statistics
    return net.eval(), x, y


def size(delta, norm):
    return delta.flatten(1).abs().amax(1) if norm == "linf" else delta.flatten(1).norm(dim=1)


# The contract, over every attack


@pytest.mark.parametrize("eps", [1 / 255, 0.1, 3.0])
@pytest.mark.parametrize("name", ATTACKS)
def test_result_lies_in_the_ball_and_in_the_box(net, name, eps):
    model, x, y = net
    x[0], x[1] = 0, 1  # at the limits
    attack, norm = ATTACKS[name]
    kept = x.clone()
    with torch.no_grad(), frozen(model):  # as an evaluation may call it
        z = attack(model, x, y, eps=eps)
    assert z.shape == x.shape and z.dtype == x.dtype
    assert size(z - x, norm).max() <= eps + 1e-6
    assert z.min() >= 0 and z.max() <= 1 and z.isfinite().all()
    assert not torch.equal(z, x)
    assert torch.equal(x, kept)


@pytest.mark.parametrize("name", ATTACKS)
def test_eps_0_returns_a_copy_of_the_image(net, name):
    model, x, y = net
    z = ATTACKS[name][0](model, x, y, eps=0)
    assert torch.equal(z, x) and z.data_ptr() != x.data_ptr()


@pytest.mark.parametrize("name", ATTACKS)
def test_neither_image_nor_parameters_get_gradients(net, name):
    model, x, y = net
    x.requires_grad_(True)
    with frozen(model):
        z = ATTACKS[name][0](model, x, y, eps=0.1)
    assert not z.requires_grad and x.grad is None
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    z = ATTACKS[name][0](model, x, y, eps=0.1)  # neither do they where nobody froze the model
    assert not z.requires_grad and x.grad is None
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("name", ATTACKS)
def test_same_seed_same_result(net, name):
    model, x, y = net
    results = []
    for _ in range(2):
        torch.manual_seed(1)
        results.append(ATTACKS[name][0](model, x, y, eps=0.1))
    assert torch.equal(*results)


# Linear models: the worst case is known


@pytest.mark.parametrize("start", ["none", "uniform", "gauss"])
def test_linf_attacks_reach_the_worst_case_of_a_linear_model(linear, start):
    model, x, y, margin = linear
    eps = 0.05
    worst = F.softplus(-(margin - eps * model.w.detach().abs().sum()))
    attacked = [pgd(model, x, y, eps=eps, step=0.03, steps=4, start=start)]
    if start == "none":
        attacked.append(fgsm(model, x, y, eps=eps))
    for z in attacked:
        torch.testing.assert_close(cross_entropy(model, y)(z).detach(), worst, rtol=1e-9, atol=1e-12)


def test_robust_accuracy_of_a_linear_model(linear):
    model, x, y, margin = linear
    shares = []
    for eps in (0.01, 0.03, 0.1):
        z = pgd(model, x, y, eps=eps, step=eps, steps=3)
        robust = (model(z).argmax(1) == y).double().mean()
        assert robust == (margin > eps * model.w.detach().abs().sum()).double().mean()
        shares.append(robust.item())
    assert shares[0] > shares[1] > shares[2]  # the margins are such that the numbers say something


def test_worst_case_at_the_limits_of_the_box(linear):
    model, _, y, _ = linear
    x = torch.rand(200, 1, 4, 4, dtype=torch.float64)
    x[:100] = x[:100].round()
    against = -(2 * y - 1)[:, None] * model.w.detach().sign()
    worst = (x.flatten(1) + 0.2 * against).clamp(0, 1).view_as(x)
    torch.testing.assert_close(pgd(model, x, y, eps=0.2, step=0.1, steps=5), worst)
    torch.testing.assert_close(fgsm(model, x, y, eps=0.2), worst)


def test_l2_attack_reaches_the_worst_case_of_a_linear_model(linear):
    model, x, y, margin = linear
    eps, w = 0.1, model.w.detach()
    worst = F.softplus(-(margin - eps * w.norm()))
    at_once = pgd(model, x, y, eps=eps, step=0.07, steps=2, start="none", norm="l2")
    torch.testing.assert_close(cross_entropy(model, y)(at_once).detach(), worst, rtol=1e-9, atol=1e-12)
    at_last = pgd(model, x, y, eps=eps, step=0.1, steps=40, norm="l2")
    torch.testing.assert_close(cross_entropy(model, y)(at_last).detach(), worst, rtol=1e-6, atol=1e-9)


def test_divergence_attack_goes_as_far_as_it_can_on_a_linear_model(linear):
    model, x, _, _ = linear
    z = pgd_kl(model, x, eps=0.05, step=0.03, steps=5)
    moved = (model.f(z) - model.f(x)).detach()
    torch.testing.assert_close(moved.abs(), torch.full_like(moved, 0.05) * model.w.detach().abs().sum())
    assert (moved > 0).any() and (moved < 0).any()  # the label is not asked


# The parts


def test_ascent_finds_the_point_of_the_ball_nearest_to_a_goal():
    torch.manual_seed(0)
    x, goal = torch.rand(6, 2, 3, 3), 3 * torch.rand(6, 2, 3, 3) - 1

    def nearness(z):
        return -((z - goal) ** 2).sum((1, 2, 3))

    z = ascend(nearness, x, eps=0.2, step=0.004, steps=150)
    nearest = torch.minimum(torch.maximum(goal, x - 0.2), x + 0.2).clamp(0, 1)
    assert (z - nearest).abs().max() <= 0.0041  # the sign step ends by going to and fro


def test_clip_is_a_projection():
    torch.manual_seed(0)
    x, z = torch.full((5, 1, 3, 3), 0.5), 0.5 + 0.3 * torch.randn(5, 1, 3, 3)
    z[0] = x[0] + 0.01
    for norm in ("linf", "l2"):
        once = clip(z, x, 0.1, norm)
        torch.testing.assert_close(clip(once, x, 0.1, norm), once)
        torch.testing.assert_close(once[0], z[0])  # inside already
        torch.testing.assert_close(size(once - x, norm)[1:], torch.full((4,), 0.1))
    direction = F.cosine_similarity((clip(z, x, 0.1, "l2") - x).flatten(1), (z - x).flatten(1))
    torch.testing.assert_close(direction, torch.ones(5))
    assert torch.equal(clip(x, x, 0.1, "l2"), x)


def test_no_gradient_moves_nothing_in_l2():
    x = torch.rand(2, 1, 3, 3)
    z = ascend(lambda z: 0 * z.sum((1, 2, 3)), x, eps=0.1, step=0.1, steps=2, start="none", norm="l2")
    assert torch.equal(z, x)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_uniform_start_fills_the_ball_evenly(norm):
    """The share of the ball's volume within a start's distance is uniform on [0, 1]."""
    torch.manual_seed(0)
    x = torch.full((4000, 1, 2, 2), 0.5, dtype=torch.float64)
    start = ascend(lambda z: z.sum((1, 2, 3)), x, eps=0.1, step=0, steps=0, norm=norm)
    share = (size(start - x, norm) / 0.1) ** 4
    assert share.max() <= 1 + 1e-9
    within = torch.tensor([(share < q).double().mean() for q in (0.1, 0.25, 0.5, 0.75, 0.9)])
    torch.testing.assert_close(within, torch.tensor([0.1, 0.25, 0.5, 0.75, 0.9]).double(), rtol=0, atol=0.03)
    assert (start - x).mean((0, 1)).abs().max() < 0.005


def test_gauss_start_has_the_published_size():
    torch.manual_seed(0)
    x = torch.full((500, 1, 4, 4), 0.5)
    start = ascend(lambda z: z.sum((1, 2, 3)), x, eps=0.1, step=0, steps=0, start="gauss")
    assert (start - x).std().item() == pytest.approx(0.001, rel=0.05)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_stopping_at_what_is_broken_breaks_all_that_the_whole_way_does(norm):
    class Wavy(nn.Module):
        """Stripes of two classes: a long step may lead across one, and back to the class it came from."""

        def forward(self, x):
            wave = (9 * x.flatten(1).sum(1)).sin()
            return torch.stack([0 * wave, wave], 1)

    model, x = Wavy(), torch.rand(200, 1, 3, 3)
    y = model(x).argmax(1)
    eps = 0.05 if norm == "linf" else 0.15
    how = {"eps": eps, "step": eps, "steps": 3, "norm": norm}
    draws = PerImageRng(torch.arange(len(x)))
    whole = pgd(model, x, y, **how, draws=draws.stream(1))
    stopped = pgd_until_broken(model, x, y, **how, draws=draws.stream(1))
    broken, all_way = (model(z).argmax(1) != y for z in (stopped, whole))
    assert (broken | ~all_way).all() and 20 < all_way.sum() < broken.sum()
    assert torch.equal(stopped[~broken], whole[~broken])  # the same way, where nothing stops it


def test_what_is_broken_costs_no_further_step(linear):
    model, x, y, margin = linear
    seen = []

    class Counting(nn.Module):
        def forward(self, x):
            seen.append(len(x))
            return model(x)

    step = 0.01
    border = margin / model.w.abs().sum().detach()  # how far each is from it
    with frozen(model):
        pgd_until_broken(Counting(), x, y, eps=0.1, step=step, steps=5, start="none")
    assert seen == [len(x), *(int((border > k * step).sum()) for k in range(4))]


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_more_steps_from_the_same_start_are_not_weaker(net, norm):
    model, x, y = net
    model.head.weight.data *= 20
    eps, losses = {"linf": 0.05, "l2": 0.4}[norm], []
    for steps in (0, 1, 4, 16):
        torch.manual_seed(0)
        z = pgd(model, x, y, eps=eps, step=eps / 4, steps=steps, norm=norm)
        losses.append(cross_entropy(model, y)(z).mean().item())
    assert losses == sorted(losses) and losses[-1] > losses[0] + 0.01


def test_divergence_is_the_kl_from_the_clean_prediction(net):
    model, x, _ = net
    model.head.weight.data *= 20  # else the divergence is so small that its direction does not show
    z = (x + 0.3 * torch.randn_like(x)).clamp(0, 1)
    with torch.no_grad():
        ours = divergence(model, model(x).log_softmax(1))(z)
        expected = kl_divergence(Categorical(logits=model(x)), Categorical(logits=model(z)))
        p, q = model(x).softmax(1), model(z).softmax(1)
        torch.testing.assert_close(ours, expected)
        torch.testing.assert_close(ours, (p * (p / q).log()).sum(1), rtol=1e-4, atol=1e-5)
        assert not torch.allclose(ours, (q * (q / p).log()).sum(1), rtol=1e-2)
        assert (divergence(model, model(x).log_softmax(1))(x) == 0).all()


def test_an_image_is_attacked_by_itself(net):
    model, x, y = net
    together = fgsm(model, x, y, eps=0.1)
    alone = torch.cat([fgsm(model, a, b, eps=0.1) for a, b in zip(x.split(1), y.split(1), strict=True)])
    assert (together != alone).double().mean() < 0.01  # but for gradients of rounding size


# frozen


def everything(model):
    return (
        [(m.training, getattr(m, "track_running_stats", None)) for m in model.modules()],
        [p.requires_grad for p in model.parameters()],
        {k: v.clone() for k, v in model.state_dict().items()},
    )


def same(a, b):
    return a[:2] == b[:2] and all(torch.equal(v, b[2][k]) for k, v in a[2].items())


@pytest.fixture
def mixed():
    """A net whose modules and parameters are in different states, and images."""
    torch.manual_seed(0)
    net = build("wrn40_2", 1, 5)
    x = torch.rand(8, 1, 8, 8)
    net(x)
    net.train()
    net.features.blocks[0].eval()
    net.features.norm.track_running_stats = False
    net.head.weight.requires_grad_(False)
    return net, x


@pytest.mark.parametrize("train", [False, True])
def test_frozen_leaves_no_trace(mixed, train):
    net, x = mixed
    before = everything(net)
    with frozen(net, train=train) as inside:
        assert inside is net
        assert all(m.training is train for m in net.modules())
        assert not any(p.requires_grad for p in net.parameters())
        net(x)
        with frozen(net, train=not train):
            net(x)
        assert all(m.training is train for m in net.modules())
        net(x)
    assert same(everything(net), before)


@pytest.mark.parametrize("train", [False, True])
def test_frozen_leaves_no_trace_after_an_exception(mixed, train):
    net, x = mixed
    before = everything(net)
    with pytest.raises(RuntimeError), frozen(net, train=train):
        net(x)
        net(x[:, :, :, None])
    assert same(everything(net), before)


def test_frozen_in_training_mode_uses_the_statistics_of_the_batch(net):
    model, x, _ = net
    with torch.no_grad():
        with frozen(model):
            evaluated = model(x)
        with frozen(model, train=True):
            trained = model(x)
            half = model(x[:4])
        twin = copy.deepcopy(model).train()
        torch.testing.assert_close(trained, twin(x))
    assert not torch.allclose(trained, evaluated, atol=1e-3)
    assert not torch.allclose(trained[:4], half, atol=1e-3)
    with torch.no_grad():
        torch.testing.assert_close(model(x), evaluated)


def test_training_goes_on_after_frozen(mixed):
    net, x = mixed
    net.requires_grad_(True).train()
    norm = net.features.blocks[0].norm1
    count, mean = norm.num_batches_tracked.item(), norm.running_mean.clone()
    with frozen(net, train=True):
        pgd(net, x, torch.zeros(8, dtype=torch.long), eps=0.1, step=0.1, steps=2)
    assert norm.num_batches_tracked.item() == count and torch.equal(norm.running_mean, mean)
    net(x).sum().backward()
    assert norm.num_batches_tracked.item() == count + 1 and not torch.equal(norm.running_mean, mean)
    assert all(p.grad is not None for p in net.parameters())


def test_dropout_is_on_in_training_mode_only(mixed):
    net, x = mixed
    for train in (False, True):
        with torch.no_grad(), frozen(net, train=train):
            assert torch.equal(net(x), net(x)) is not train


def test_gradients_that_are_there_stay(net):
    model, x, y = net
    F.cross_entropy(model(x), y).backward()
    grads = [p.grad.clone() for p in model.parameters()]
    with frozen(model):
        fgsm(model, x, y, eps=0.1)
    fgsm(model, x, y, eps=0.1)
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), grads, strict=True))
