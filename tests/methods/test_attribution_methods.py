"""Methods that train for stable attributions, against closed forms, hand-made Hessians and finite differences."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import methods
from harness.config.trial import build
from harness.data.batches import Batch
from harness.errors import UserError
from harness.explain.input_gradients import gradient, true_logit
from harness.models import nets
from harness.models.freezing import untracked
from harness.models.relus import softened
from methods.art import top_gradient_indices, triplet, triplet_vectors
from methods.ig_norm import clipped_loss, integrated

NAMES = ("art", "ig_norm", "ig_sum_norm")
SMALLER = {"art": {}, "ig_norm": {"points": 4, "coarse": 2}, "ig_sum_norm": {"points": 4, "coarse": 2}}
SHAPE = (2, 2, 3)  # channels, height, width of the hand-made nets' images
D = math.prod(SHAPE)


class Linear(nn.Module):
    """Three logits w x + b; every gradient is a row of w."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.randn(3, D, dtype=torch.float64))
        self.b = nn.Parameter(torch.randn(3, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.w.T + self.b


class TwoLayers(nn.Module):
    """Logits v s(w x + b). The Hessian of logit i is w^T diag(v_i * s''(w x + b)) w."""

    def __init__(self, activation, width: int = 4):
        super().__init__()
        self.activation = activation
        self.w = nn.Parameter(torch.randn(width, D, dtype=torch.float64) / 2)
        self.b = nn.Parameter(torch.randn(width, dtype=torch.float64))
        self.v = nn.Parameter(torch.randn(3, width, dtype=torch.float64))

    def hidden(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.w.T + self.b

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.hidden(x)) @ self.v.T


def tanh_derivatives(a: Tensor) -> tuple[Tensor, Tensor]:
    t = a.tanh()
    return 1 - t**2, -2 * t * (1 - t**2)


def softplus_derivatives(a: Tensor, beta: float = 3.0) -> tuple[Tensor, Tensor]:
    s = (beta * a).sigmoid()
    return s, beta * s * (1 - s)


SMOOTH = {
    "tanh": (torch.tanh, tanh_derivatives),
    "softplus": (lambda a: F.softplus(a, 3.0), softplus_derivatives),
    "relu, softened": (F.relu, softplus_derivatives),  # by ART itself, with its beta
}


@pytest.fixture
def batch():
    x = 0.2 + 0.6 * torch.rand(4, *SHAPE, dtype=torch.float64)
    return Batch(x, torch.tensor([0, 1, 2, 0]))


@pytest.fixture
def near(batch):
    """A perturbed image for every image of the batch."""
    return batch.x + 0.1 * (2 * torch.rand_like(batch.x) - 1)


@pytest.fixture
def images():
    return Batch(torch.rand(8, 3, 8, 8), torch.randint(5, (8,)))


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1))


def best_wrong(logits: Tensor, y: Tensor) -> Tensor:
    own = F.one_hot(y, 3).bool()
    return logits.detach().masked_fill(own, -torch.inf).argmax(1)


def numeric(function, at: Tensor, h: float = 1e-6) -> Tensor:
    """The gradient of a function of no arguments by central differences in a tensor that it reads."""
    g, flat = torch.zeros_like(at), at.detach().view(-1)
    for i in range(len(flat)):
        kept = flat[i].item()
        values = []
        for there in (kept + h, kept - h):
            flat[i] = there
            values.append(float(function().detach()))
        flat[i] = kept
        g.view(-1)[i] = (values[0] - values[1]) / (2 * h)
    return g


# Settings


def test_the_published_values_are_the_defaults():
    art, norm, total = (methods.make(name) for name in NAMES)
    assert (art.eps, art.step, art.steps, art.weight, art.beta) == (8 / 255, 5 / 255, 3, 0.5, 50.0)
    assert (art.topk, art.mining) == (None, "pair")
    for each in (norm, total):
        assert (each.eps, each.step, each.steps, each.weight) == (8 / 255, 2 / 255, 7, 1.0)
        assert (each.points, each.coarse) == (50, 10)


def test_settings_are_read_from_text():
    trial = build({"method": "art", "method.topk": "40", "method.mining": "none", "method.beta": "10"})
    assert (trial.method.topk, trial.method.mining, trial.method.beta) == (40, "none", 10.0)
    assert build({"method": "art", "method.topk": "none"}).method.topk is None


@pytest.mark.parametrize("beta", [0.0, -1.0])
def test_softplus_needs_a_positive_sharpness(beta):
    with pytest.raises(UserError, match=r"^method.beta must be positive, not"):
        build({"method": "art", "method.beta": beta})


@pytest.mark.parametrize("eps", [0.0, 8 / 255])
@pytest.mark.parametrize("name", NAMES)
def test_one_class_is_a_mistake(name, eps):
    net = nets.build("small", 3, 1)
    one = Batch(torch.rand(4, 3, 8, 8), torch.zeros(4, dtype=torch.long))
    with pytest.raises(UserError, match=r"^attributions need .* at least two classes; this one has 1$"):
        methods.make(name, eps=eps).loss(net, one)


# The triplet loss


def test_triplet_of_a_linear_net_has_a_closed_form(batch, near):
    net = Linear()
    wrong = best_wrong(net(near), batch.y)
    z = near.flatten(1)
    d_true, d_wrong = 1 - cosine(z, net.w[batch.y]), 1 - cosine(z, net.w[wrong])
    expected = torch.log1p(torch.exp(-(d_wrong - d_true)))
    method = methods.make("art", mining="none")
    torch.testing.assert_close(method.objective(net, batch)(near.clone().requires_grad_()), expected)
    torch.testing.assert_close(method.attribution_loss(net, batch, near), expected.mean())


def test_a_gradient_is_compared_as_the_net_normalises_its_input(batch, near):
    net = TwoLayers(F.relu)
    mean, std = torch.tensor([0.4, 0.5]).double(), torch.tensor([0.2, 0.7]).double()

    def scaled(x):
        return (x - mean[:, None, None]) / std[:, None, None]

    class Inside(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net
            self.register_buffer("mean", mean)
            self.register_buffer("std", std)

        def forward(self, x):
            return self.net(scaled(x))

    outside = Batch(scaled(batch.x), batch.y)
    for mining in ("pair", "none"):
        method = methods.make("art", beta=3.0, mining=mining)
        expected = method.attribution_loss(net, outside, scaled(near))
        torch.testing.assert_close(method.attribution_loss(Inside(), batch, near), expected)
        assert not torch.allclose(method.attribution_loss(net, batch, near), expected, rtol=1e-3)
    z = near.clone().requires_grad_(True)
    assert torch.equal(
        top_gradient_indices(Inside(), z, batch.y, 4),
        top_gradient_indices(net, scaled(near).requires_grad_(True), batch.y, 4),
    )


def test_nets_of_the_harness_are_known_to_normalise(images):
    net = nets.build("small", 3, 5).eval()
    moved = copy.deepcopy(net).normalised_by(torch.full((3,), 0.5), torch.tensor([0.2, 0.3, 0.4]))
    x = (images.x - 0.5) / torch.tensor([0.2, 0.3, 0.4])[:, None, None]
    vectors = [
        triplet_vectors(n, at.requires_grad_(True), images.y, 50.0) for n, at in ((moved, images.x.clone()), (net, x))
    ]
    for ours, expected in zip(*vectors, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-6)


def at_angle(*degrees: float) -> Tensor:
    radians = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    return torch.stack([radians.cos(), radians.sin()], 1) * torch.tensor([[3.0]])


def test_the_hardest_of_a_pair_counts():
    """Two images, all vectors given by their angles; rows are clean, clean, attacked, attacked."""
    image = at_angle(0, 90, 10, 90)
    true = at_angle(20, 90, 60, 120)
    wrong = at_angle(90, 180, 45, 100)
    to_true = [60, 30, 50, 30]  # the larger angle: 0 is 20 and 60 away from the gradients of its image
    to_wrong = [45, 10, 35, 10]  # the smaller one
    angles = torch.tensor([to_true, to_wrong], dtype=torch.float64).deg2rad().cos()
    torch.testing.assert_close(triplet(image, true, wrong, copies=2), F.softplus((1 - angles[0]) - (1 - angles[1])))
    alone = torch.tensor([[20, 0, 50, 30], [90, 90, 35, 10]], dtype=torch.float64).deg2rad().cos()
    torch.testing.assert_close(triplet(image, true, wrong), F.softplus(alone[1] - alone[0]))


@pytest.mark.parametrize("train", [False, True])
def test_equal_copies_are_mined_to_the_same(images, train):
    net = nets.build("small", 3, 5).train(train)
    grads = []
    for mining in ("pair", "none"):
        net.zero_grad()
        terms = methods.make("art", eps=0.0, mining=mining).loss(net, images)
        sum(terms.values()).backward()
        grads.append([float(terms["attr"].detach()), *(p.grad.clone() for p in net.parameters())])
    assert grads[0][0] == pytest.approx(grads[1][0], rel=1e-5)
    for a, b in zip(grads[0][1:], grads[1][1:], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_a_vector_of_zeros_breaks_nothing():
    net = TwoLayers(F.relu)
    with torch.no_grad():
        net.v.zero_()
    black = Batch(torch.zeros(2, *SHAPE, dtype=torch.float64), torch.tensor([0, 1]))
    terms = methods.make("art", eps=0.0).loss(net, black)
    assert terms["attr"].item() == pytest.approx(0.5 * math.log(2))
    sum(terms.values()).backward()
    assert all(p.grad.isfinite().all() for p in net.parameters())
    assert methods.make("art").perturb(net, black).isfinite().all()


# Second derivatives


@pytest.mark.parametrize("name", SMOOTH)
def test_gradient_of_a_gradient_is_the_hessian(name, batch):
    activation, derivatives = SMOOTH[name]
    net = TwoLayers(activation)
    model = softened(net, 3.0)
    x, u = batch.x.clone().requires_grad_(True), torch.randn(len(batch), D, dtype=torch.float64)
    g = gradient(true_logit(model(x), batch.y), x, graph=True)
    first, second = derivatives(net.hidden(x))
    v = net.v[batch.y]
    torch.testing.assert_close(g.flatten(1), (v * first) @ net.w)
    product = (g.flatten(1) * u).sum()
    hessian = net.w.T @ torch.diag_embed(v * second) @ net.w
    torch.testing.assert_close(gradient(product, x, again=True).flatten(1), (hessian @ u[..., None]).squeeze(-1))
    in_v = torch.zeros_like(net.v).index_add(0, batch.y, first * (u @ net.w.T))
    torch.testing.assert_close(gradient(product, net.v), in_v)


@pytest.mark.parametrize("name", SMOOTH)
def test_gradient_of_the_inner_objective_by_the_hand_made_hessian(name, batch, near):
    """The cosine moves with the image, its anchor, and with the gradient, by the Hessian."""
    activation, derivatives = SMOOTH[name]
    net = TwoLayers(activation)
    z = near.clone().requires_grad_(True)
    loss = methods.make("art", beta=3.0).objective(net, batch)(z)
    g = gradient(loss, z).flatten(1)
    first, second = derivatives(net.hidden(near))
    wrong, a = best_wrong(softened(net, 3.0)(near), batch.y), near.flatten(1)
    moves, cosines = [], []
    for c in (batch.y, wrong):
        b = (net.v[c] * first) @ net.w
        hessian = net.w.T @ torch.diag_embed(net.v[c] * second) @ net.w
        size_a, size_b, cos = a.norm(dim=1, keepdim=True), b.norm(dim=1, keepdim=True), cosine(a, b)[:, None]
        by_anchor = b / (size_a * size_b) - cos * a / size_a**2
        by_gradient = a / (size_a * size_b) - cos * b / size_b**2
        moves.append(by_anchor + (hessian @ by_gradient[..., None]).squeeze(-1))
        cosines.append(cos)
    torch.testing.assert_close(loss, F.softplus(cosines[1] - cosines[0]).squeeze(1))
    torch.testing.assert_close(g, (cosines[1] - cosines[0]).sigmoid() * (moves[1] - moves[0]))


@pytest.mark.parametrize("settings", [{}, {"topk": 5}], ids=["all", "topk"])
def test_gradient_of_the_inner_objective_by_finite_differences(settings, batch, near):
    net = TwoLayers(F.relu)
    objective = methods.make("art", beta=3.0, **settings).objective(net, batch)
    z = near.clone().requires_grad_(True)
    g = gradient(objective(z), z)
    z = near.clone()
    torch.testing.assert_close(g, numeric(lambda: objective(z.detach().requires_grad_(True)).sum(), z))


@pytest.mark.parametrize("name", ["ig_norm", "ig_sum_norm"])
def test_gradient_of_the_inner_objectives_of_integrals_by_finite_differences(name, batch, near):
    net = TwoLayers(torch.tanh)
    objective = methods.make(name, points=6, coarse=2, weight=0.7).objective(net, batch)
    z = near.clone().requires_grad_(True)
    g = gradient(objective(z), z)
    z = near.clone()
    torch.testing.assert_close(g, numeric(lambda: objective(z.detach().requires_grad_(True)).sum(), z))


CASES = {
    "art, pair": ("art", {"beta": 3.0}),
    "art, none": ("art", {"beta": 3.0, "mining": "none"}),
    "art, topk": ("art", {"beta": 3.0, "topk": 5}),
    "ig_norm": ("ig_norm", {"points": 2, "weight": 0.7}),
    "ig_norm, sum": ("ig_norm", {"points": 2, "reduction": "sum"}),
    "ig_sum_norm": ("ig_sum_norm", {"points": 2, "weight": 0.7}),
}


@pytest.mark.sample("ig_norm-relu", "ig_sum_norm-tanh", "art, topk-relu")
@pytest.mark.parametrize("activation", [torch.tanh, F.relu], ids=["tanh", "relu"])
@pytest.mark.parametrize("case", CASES)
def test_gradient_in_the_weights_by_finite_differences(case, activation, batch, near, monkeypatch):
    """Of the loss at a given x'. It is exact for a ReLU net, too: no weight here is near a kink."""
    name, settings = CASES[case]
    method, net = methods.make(name, **settings), TwoLayers(activation).eval()
    monkeypatch.setattr(type(method), "perturb", lambda self, model, batch: near)

    def loss():
        return sum(method.loss(net, batch).values())

    loss().backward()
    for p in net.parameters():
        torch.testing.assert_close(p.grad, numeric(loss, p.data), rtol=1e-6, atol=1e-7)


def test_gradient_in_the_weights_of_a_linear_net_is_that_of_its_rows(batch, near):
    """They are the gradients that the loss compares; the bias is in none of them."""
    net = Linear()
    method = methods.make("art")
    method.attribution_loss(net, batch, near).backward()
    x = torch.cat([batch.x, near]).flatten(1)
    w = net.w.detach().clone().requires_grad_(True)
    y = batch.y.repeat(2)
    triplet(x, w[y], w[best_wrong(net(x), y)], copies=2).mean().backward()
    torch.testing.assert_close(net.w.grad, w.grad)
    assert net.b.grad is None or not net.b.grad.any()


# Batch statistics


@pytest.fixture
def normed():
    """A net with batch normalisation in float64, in training mode."""
    features = nn.Sequential(nets.conv(2, 4), nn.BatchNorm2d(4), nn.ReLU(), nets.conv(4, 4), nn.BatchNorm2d(4))
    net = nets.Net(nn.Sequential(features, nn.ReLU()), 4, 3, 2).double().train()
    for norm in (features[1], features[4]):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.uniform_(norm.bias, -0.5, 0.5)
    return net


def test_in_evaluation_mode_the_gradients_are_those_of_the_evaluated_net(normed, batch, near):
    method = methods.make("art", beta=3.0, crafting="eval")
    learning = method.attribution_loss(normed, batch, near)
    assert normed.training and all(m.training for m in normed.modules())
    torch.testing.assert_close(learning, method.attribution_loss(copy.deepcopy(normed).eval(), batch, near))
    assert (learning - methods.make("art", beta=3.0).attribution_loss(normed, batch, near)).abs() > 1e-6
    learning.backward()
    assert normed.features[0][1].weight.grad.any()


@pytest.mark.sample("ig_norm", "art, topk")
@pytest.mark.parametrize("case", list(CASES))
def test_gradient_in_the_weights_through_batch_statistics(case, normed, batch, near, monkeypatch):
    name, settings = CASES[case]
    method = methods.make(name, **settings)
    monkeypatch.setattr(type(method), "perturb", lambda self, model, batch: near)

    def loss():
        return sum(method.loss(normed, batch).values())

    loss().backward()
    for p in (normed.features[0][1].weight, normed.features[0][4].bias, normed.head.weight):
        torch.testing.assert_close(p.grad, numeric(loss, p.data), rtol=1e-5, atol=1e-6)


# The top k


def test_topk_of_all_coordinates_restricts_nothing(batch):
    net = TwoLayers(F.relu)
    found = []
    for topk in (None, D, 10 * D):
        torch.manual_seed(5)
        found.append(methods.make("art", beta=3.0, topk=topk).perturb(net, batch))
    torch.testing.assert_close(found[1], found[0])
    torch.testing.assert_close(found[2], found[0])


def test_the_restricted_objective_sees_the_largest_coordinates_only(batch, near):
    net = Linear()
    kept = net.w[batch.y].abs().argsort(dim=1, descending=True)[:, :4]
    mask = torch.zeros(len(batch), D).scatter(1, kept, 1).bool().view_as(near)
    objective = methods.make("art", topk=4).objective(net, batch)
    z = near.clone().requires_grad_(True)
    g = gradient(objective(z), z)
    assert torch.equal(g != 0, mask)
    elsewhere = torch.where(mask, near, torch.rand_like(near)).requires_grad_(True)
    wrong = best_wrong(net(elsewhere), batch.y)
    image, true, wrong = (t.gather(1, kept) for t in (near.flatten(1), net.w[batch.y], net.w[wrong]))
    torch.testing.assert_close(objective(elsewhere), F.softplus(cosine(image, wrong) - cosine(image, true)))


def test_the_coordinates_are_chosen_once_by_the_net_itself(batch, near):
    net = TwoLayers(F.relu)
    with torch.no_grad():
        net.b.sub_(net.hidden(batch.x).mean(0))  # units that are on at one place and off at another
    far = torch.rand_like(near)
    kept = [top_gradient_indices(net, at.clone().requires_grad_(True), batch.y, 4) for at in (near, far)]
    assert not torch.equal(kept[0].sort().values, kept[1].sort().values)
    on = (net.hidden(near) > 0).double()
    by_hand = ((net.v[batch.y] * on) @ net.w).abs().topk(4).indices
    assert torch.equal(kept[0], by_hand)
    objective = methods.make("art", beta=3.0, topk=4).objective(net, batch)
    z = far.clone().requires_grad_(True)
    vectors = [v.gather(1, kept[0]) for v in triplet_vectors(net, z, batch.y, 3.0)]
    objective(near.clone().requires_grad_(True))
    torch.testing.assert_close(objective(z), triplet(*vectors))


# Integrated gradients


def test_integral_of_a_linear_net_nears_quadrature(batch, near):
    """The gradient at each point is w^T (p - 1_y): only p has to be integrated."""
    net = Linear()
    nodes, weights = np.polynomial.legendre.leggauss(40)
    delta = near - batch.x
    with torch.no_grad():
        p = sum(w / 2 * net(batch.x + (t + 1) / 2 * delta).softmax(1) for t, w in zip(nodes, weights, strict=True))
        exact = delta * ((p - F.one_hot(batch.y, 3)) @ net.w).view_as(delta)
    sums = [integrated(net, batch.x, near, batch.y, m).detach() for m in (50, 100, 200)]
    errors = [(s - exact).abs().max() for s in sums]
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.02)  # a right Riemann sum is of first order
    assert errors[1] / errors[2] == pytest.approx(2, rel=0.01)
    torch.testing.assert_close(2 * sums[2] - sums[1], exact, rtol=1e-5, atol=1e-7)


def test_the_sum_is_taken_at_the_right_ends(batch, near):
    net = Linear()
    expected = torch.zeros_like(near)
    for share in (1 / 3, 2 / 3, 1.0):
        p = net(batch.x + share * (near - batch.x)).softmax(1)
        expected += ((p - F.one_hot(batch.y, 3)) @ net.w).view_as(near).detach() / 3
    torch.testing.assert_close(integrated(net, batch.x, near, batch.y, 3), (near - batch.x) * expected)


@pytest.mark.parametrize("activation", [torch.tanh, F.relu], ids=["tanh", "relu"])
def test_completeness(activation, batch, near):
    net = TwoLayers(activation)
    carried = integrated(net, batch.x, near, batch.y, 400).sum((1, 2, 3))
    rise = F.cross_entropy(net(near), batch.y, reduction="none") - F.cross_entropy(
        net(batch.x), batch.y, reduction="none"
    )
    torch.testing.assert_close(carried, rise, rtol=1e-2, atol=1e-3)
    assert rise.abs().max() > 0.1


def test_a_loss_beyond_the_floor_is_flat(batch, near):
    logits = torch.tensor([[22.9, 0.0], [23.2, 0.0], [0.0, 50.0]], dtype=torch.float64, requires_grad=True)
    y = torch.tensor([1, 1, 1])
    values = clipped_loss(logits, y)
    torch.testing.assert_close(values[:1], F.cross_entropy(logits[:1], y[:1], reduction="none"))
    assert values[1].item() == pytest.approx(-math.log(1e-10))
    g = gradient(values, logits)
    assert g[0].any() and not g[1].any() and values[2] < 1e-12
    net = Linear()
    with torch.no_grad():
        net.b.copy_(torch.tensor([0.0, 0.0, 100.0]))
    lost = integrated(net, batch.x, near, torch.zeros_like(batch.y), 3)
    assert not lost.any()


def test_cross_entropy_itself_is_not_clipped(batch, monkeypatch):
    net = Linear()
    with torch.no_grad():
        net.b.copy_(torch.tensor([0.0, 0.0, 100.0]))
    wrong = Batch(batch.x, torch.zeros_like(batch.y))
    for name in ("ig_norm", "ig_sum_norm"):
        assert methods.make(name, points=1).loss(net, wrong)["ce"] > 80


def reference(net, x, z, y, points):
    """Integrated gradients written down plainly, each point by itself on a copy whose statistics may move."""
    net, total = copy.deepcopy(net), 0
    for k in range(1, points + 1):
        at = (x + k / points * (z - x)).detach().requires_grad_(True)
        (g,) = torch.autograd.grad(F.cross_entropy(net(at), y, reduction="sum"), at)
        total = total + g / points
    return (z - x) * total


@pytest.mark.parametrize("train", [False, True])
def test_every_point_has_the_statistics_of_its_own_batch(images, train):
    net = nets.build("small", 3, 5).train(train)
    z = images.x + 0.1 * torch.randn_like(images.x)
    ours = integrated(net, images.x, z, images.y, 4).detach()
    torch.testing.assert_close(ours, reference(net, images.x, z, images.y, 4), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("train", [False, True])
def test_sparing_memory_changes_no_number(train):
    """Values, gradients in the weights, in x' and the state of the random numbers, with BatchNorm and dropout."""
    features = nn.Sequential(nets.conv(2, 6), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.3), nets.conv(6, 4))
    net = nets.Net(nn.Sequential(features, nn.BatchNorm2d(4), nn.ReLU()), 4, 3, 2).double().train(train)
    x, y = torch.rand(4, 2, 5, 5, dtype=torch.float64), torch.tensor([0, 1, 2, 0])
    found = []
    for checkpointed in (False, True):
        torch.manual_seed(2)
        net.zero_grad()
        z = (x + 0.1).requires_grad_(True)
        ig = integrated(net, x, z, y, 5, checkpointed=checkpointed)
        drawn = torch.rand(3)  # before what is computed again, and after
        ig.abs().sum().backward()
        found.append([ig.detach(), drawn, torch.rand(3), z.grad, *(p.grad for p in net.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True) if a is not None)
    assert found[0][4].any()


def test_sparing_memory_spares_memory(images):
    net = nets.build("small", 3, 5)
    z = images.x + 0.1

    def held(points, checkpointed):
        """Values that the graph keeps, weights and repetitions left out."""
        kept = {}

        def keep(t):
            kept[t.data_ptr()] = t  # the tensor, lest its address is given to another
            return t

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
            if checkpointed:  # as the method itself does
                ig = methods.make("ig_norm", points=points).terms(net, images, z, images.x)["ig"]
            else:
                ig = integrated(net, images.x, z, images.y, points).abs().sum()
        ig.backward()
        return sum(t.numel() for t in kept.values()) / images.x.numel()

    assert held(12, True) - held(2, True) <= 10  # at most an image for each point
    assert held(12, False) - held(2, False) > 300


# The losses


@pytest.mark.parametrize("name", ["ig_norm", "ig_sum_norm"])
def test_terms_are_those_of_the_paper(name, batch, near, monkeypatch):
    net = TwoLayers(F.relu)
    method = methods.make(name, points=5, weight=0.3)
    monkeypatch.setattr(type(method), "perturb", lambda self, model, batch: near)
    terms = method.loss(net, batch)
    learnt = batch.x if name == "ig_norm" else near
    norm = integrated(net, batch.x, near, batch.y, 5).abs().sum((1, 2, 3))
    torch.testing.assert_close(terms["ce"], F.cross_entropy(net(learnt), batch.y))
    torch.testing.assert_close(terms["ig"], 0.3 * norm.mean())
    summed = methods.make(name, points=5, weight=0.3, reduction="sum").loss(net, batch)
    for key in terms:
        torch.testing.assert_close(summed[key], len(batch) * terms[key])


def test_art_learns_its_classes_on_the_attacked_image(batch, near, monkeypatch):
    net = TwoLayers(F.relu)
    method = methods.make("art", weight=0.3, mining="none")
    monkeypatch.setattr(type(method), "perturb", lambda self, model, batch: near)
    terms = method.loss(net, batch)
    torch.testing.assert_close(terms["ce"], F.cross_entropy(net(near), batch.y))  # of ReLUs, not of softplus
    torch.testing.assert_close(terms["attr"], 0.3 * method.objective(net, batch)(near.requires_grad_(True)).mean())


def test_inner_objectives_are_those_of_the_paper(batch, near):
    net = TwoLayers(F.relu)
    coarse = integrated(net, batch.x, near, batch.y, 5).abs().sum((1, 2, 3))
    z = near.clone().requires_grad_(True)
    torch.testing.assert_close(methods.make("ig_norm").objective(net, batch)(z), coarse)
    total = methods.make("ig_sum_norm", weight=0.3).objective(net, batch)(z)
    torch.testing.assert_close(total, 0.3 * coarse + F.cross_entropy(net(near), batch.y, reduction="none"))


@pytest.mark.parametrize(("points", "coarse", "seen"), [(50, 10, 5), (10, 5, 2), (4, 10, 1), (7, 2, 3), (3, 1, 3)])
def test_the_attack_looks_at_fewer_points(points, coarse, seen, batch, near):
    net, at = Linear(), []
    net.register_forward_pre_hook(lambda module, inputs: at.append(inputs[0].detach()))
    methods.make("ig_norm", points=points, coarse=coarse).objective(net, batch)(near.clone().requires_grad_(True))
    assert len(at) == seen
    for k, point in enumerate(at, 1):
        torch.testing.assert_close(point, batch.x + k / seen * (near - batch.x))


@pytest.mark.parametrize("name", NAMES)
def test_float32_nears_float64(name, images):
    net = nets.build("small", 3, 5)
    z = (images.x + 0.03 * torch.randn_like(images.x)).clamp(0, 1)
    method = methods.make(name, **SMALLER[name])
    losses, grads = [], []
    for dtype in (torch.float32, torch.float64):
        twin = copy.deepcopy(net).to(dtype)
        same = Batch(images.x.to(dtype), images.y)
        if name == "art":
            loss = method.attribution_loss(twin, same, z.to(dtype))
        else:
            loss = sum(method.terms(twin, same, z.to(dtype), same.x).values())
        loss.backward()
        losses.append(float(loss.detach()))
        grads.append([p.grad.double() for p in twin.parameters() if p.grad is not None])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    for a, b in zip(*grads, strict=True):
        assert (a - b).norm() <= 1e-2 * b.norm() + 1e-5


@pytest.mark.sample("ig_norm")
@pytest.mark.parametrize("name", NAMES)
def test_second_order_parts_are_float32_in_bf16_training(name, images):
    net = nets.build("small", 3, 5)
    method, found = methods.make(name, **SMALLER[name]), []
    for bf16 in (False, True):
        torch.manual_seed(4)
        twin = copy.deepcopy(net)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            z = method.perturb(twin, images)
            torch.manual_seed(4)
            terms = method.loss(twin, images)
        (second,) = (t for key, t in terms.items() if key != "ce")
        second.backward()  # after the context, as in training: what is computed again is float32, too
        found.append((z, second.detach(), terms["ce"].detach(), *(p.grad for p in twin.parameters())))
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])
    assert found[0][2] != found[1][2]  # while the cross-entropy did run in bfloat16
    assert all(torch.equal(a, b) for a, b in zip(found[0][3:], found[1][3:], strict=True) if a is not None)


# The attacks


@pytest.fixture(scope="module")
def learnt():
    """A small net that has learnt where a bright square is, and its images."""
    torch.manual_seed(0)
    net, batch = nets.build("small", 1, 4), squares(64)
    optimiser = torch.optim.Adam(net.parameters(), 0.01)
    for _ in range(30):
        optimiser.zero_grad()
        F.cross_entropy(net(batch.x), batch.y).backward()
        optimiser.step()
    return net.eval(), Batch(batch.x[:24], batch.y[:24])


def squares(n: int) -> Batch:
    """Four classes of 1x8x8 images: the quarter that is brighter."""
    y = torch.randint(4, (n,))
    x = 0.3 * torch.rand(n, 1, 8, 8)
    for i, c in enumerate(y.tolist()):
        x[i, 0, 4 * (c // 2) : 4 * (c // 2) + 4, 4 * (c % 2) : 4 * (c % 2) + 4] += 0.5
    return Batch(x, y)


@pytest.mark.sample("art-train", "ig_norm-eval")
@pytest.mark.parametrize("crafting", ["eval", "train"])
@pytest.mark.parametrize("name", NAMES)
def test_the_attack_raises_its_objective(name, crafting, learnt):
    net, batch = learnt
    net = copy.deepcopy(net).train(crafting == "train")
    values, step = [], 0.02
    for steps in (0, 1, 3, 9):
        method = methods.make(name, **SMALLER[name], eps=0.08, step=step, steps=steps, crafting=crafting)
        torch.manual_seed(1)
        z = method.perturb(net, batch)
        assert (z - batch.x).abs().max() <= 0.08 + 1e-6 and z.min() >= 0 and z.max() <= 1
        assert not z.requires_grad
        with untracked(net):
            values.append(method.objective(net, batch)(z.requires_grad_(True)).mean().item())
    assert values == sorted(values) and values[-1] > 1.05 * values[0]


def test_topk_attack_raises_its_objective(learnt):
    net, batch = learnt
    values = []
    for steps in (0, 6):
        method = methods.make("art", topk=20, eps=0.08, step=0.02, steps=steps, crafting="eval")
        torch.manual_seed(1)
        start = methods.make("art", eps=0.08, steps=0).perturb(net, batch).requires_grad_(True)
        torch.manual_seed(1)
        z = method.perturb(net, batch).requires_grad_(True)
        objective = method.objective(net, batch)
        objective(start)
        values.append(objective(z).mean().item())
    assert values[1] > 1.05 * values[0]


@pytest.mark.sample("art-train", "ig_norm-eval")
@pytest.mark.parametrize("crafting", ["train", "eval"])
@pytest.mark.parametrize("name", NAMES)
def test_running_statistics_follow_the_images_that_are_learnt(name, crafting, images):
    net = nets.build("small", 3, 5).train()
    method, twin = methods.make(name, **SMALLER[name], crafting=crafting), copy.deepcopy(net)
    torch.manual_seed(6)
    sum(method.loss(net, images).values()).backward()  # points are computed again in the backward
    torch.manual_seed(6)
    twin(images.x if name == "ig_norm" else method.perturb(twin, images))
    for (key, ours), expected in zip(net.named_buffers(), twin.buffers(), strict=True):
        assert torch.equal(ours, expected), key
    assert net.features.norms[0].num_batches_tracked == 1


@pytest.mark.parametrize("name", NAMES)
def test_modes_and_requests_for_gradients_are_left_alone(name, images):
    net = nets.build("small", 3, 5).train()
    net.features.norms[1].eval()
    net.features.norms[2].track_running_stats = False
    net.features.convs[0].weight.requires_grad_(False)

    def state():
        asked = [p.requires_grad for p in net.parameters()]
        return asked, [(m.training, getattr(m, "track_running_stats", None)) for m in net.modules()]

    before = state()
    terms = methods.make(name, **SMALLER[name]).loss(net, images)
    assert state() == before
    sum(terms.values()).backward()
    assert state() == before
    with pytest.raises(RuntimeError):
        methods.make(name, **SMALLER[name]).loss(net, Batch(images.x[:, :2], images.y))
    assert state() == before


def test_untracked_is_for_modules_in_training_mode(images):
    net = nets.build("small", 3, 5).train()
    net(images.x)
    net.features.norms[0].eval()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    plain = copy.deepcopy(net)(images.x)
    with untracked(net):
        torch.testing.assert_close(net(images.x), plain)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    net(images.x)
    assert net.features.norms[1].num_batches_tracked == 2 and net.features.norms[0].num_batches_tracked == 1


def trained(name: str, updates: int, **settings) -> tuple[nn.Module, Batch, list[dict[str, float]]]:
    """A small net, in evaluation mode, after so many updates on one batch; that batch; the terms of each update."""
    torch.manual_seed(0)
    batch, net, seen = squares(24), nets.build("small", 1, 4), []
    method, optimiser = methods.make(name, **settings), torch.optim.Adam(net.parameters(), 0.01)
    for _ in range(updates):
        optimiser.zero_grad()
        terms = method.loss(net, batch)
        sum(terms.values()).backward()
        optimiser.step()
        seen.append({key: float(t.detach()) for key, t in terms.items()})
    return net.eval(), batch, seen


def test_untracked_leaves_other_norms_in_evaluation_mode_as_they_are(images):
    norm = nn.InstanceNorm2d(3, track_running_stats=True)
    norm(images.x)
    expected = norm.eval()(images.x)
    with untracked(norm):
        assert torch.equal(norm(images.x), expected)


@pytest.mark.sample("art")
@pytest.mark.parametrize("name", NAMES)
def test_training_lowers_the_loss(name):
    net, batch, seen = trained(name, 12, **SMALLER[name], steps=1)
    first, last = (sum(sum(s.values()) for s in part) for part in (seen[:3], seen[-3:]))
    assert last < 0.7 * first
    assert net.train()(batch.x).argmax(1).eq(batch.y).float().mean() > 0.9


def test_art_draws_the_gradient_near_the_image():
    margins = {}
    for name, settings in (("standard", {}), ("art", {"crafting": "eval", "steps": 1})):
        net, batch, _ = trained(name, 20, **settings)
        image, true, wrong = triplet_vectors(net, batch.x.clone().requires_grad_(True), batch.y, 50.0)
        margins[name] = (F.cosine_similarity(image, true) - F.cosine_similarity(image, wrong)).mean().item()
    assert margins["art"] > margins["standard"] + 0.2


def test_the_regulariser_makes_attributions_smaller():
    norms = {}
    for weight in (1e-6, 1.0):
        _, _, seen = trained("ig_norm", 12, points=3, coarse=3, steps=1, eps=0.1, step=0.1, weight=weight)
        norms[weight] = sum(terms["ig"] for terms in seen[4:]) / weight
    assert norms[1.0] < 0.5 * norms[1e-6]
