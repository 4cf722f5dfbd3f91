"""Maps with a graph, and attacks on them: linear nets, derivatives by hand, captum, and plain loops as oracles."""

import dataclasses
import itertools
import weakref
from functools import partial

import captum.attr
import pytest
import torch
from map_contract import quick
from oracles import Linear, fragile
from torch import Tensor, nn
from torch.nn import functional as F

from harness.attacks import attribution
from harness.attacks.attribution import attack
from harness.errors import UserError
from harness.explain import input_gradients
from harness.explain import similarity as explain_similarity
from harness.explain.input_gradients import gradient
from harness.explain.integrated_gradients import IntegratedGradients
from harness.explain.maps import GradCAMPlusPlus, Gradient, SmoothGrad, attackable, trapezoids
from harness.models import nets
from harness.models.freezing import frozen
from harness.models.relus import softened

RULES = ("midpoint", "right", "trapezoid")
CRITERIA = {"k": explain_similarity.kendall, "in": partial(explain_similarity.topk_intersection, k=6)}
OBJECTIVES = {
    "top_k": attribution.top_k(6),
    "mass_centre": attribution.mass_centre,
    "towards": attribution.towards(torch.eye(6)),
    "random_signs": attribution.random_signs,
}
MAPS = {
    **{name: quick(kind(), points=4, n=4) for name, kind in attackable().items()},
    **{f"integrated, {rule}": IntegratedGradients(4, rule) for rule in RULES},
    "integrated, fixed factor": IntegratedGradients(4, through_factor=False),
    "integrated, loss": IntegratedGradients(4, of="loss"),
}


class TwoLayers(nn.Module):
    """Logits v s(w x + b). The Hessian of logit i is w^T diag(v_i * s''(w x + b)) w."""

    def __init__(self, activation):
        super().__init__()
        self.activation = activation
        self.w = nn.Parameter(torch.randn(5, 72, dtype=torch.float64) / 4)
        self.b = nn.Parameter(torch.randn(5, dtype=torch.float64))
        self.v = nn.Parameter(torch.randn(3, 5, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(x.flatten(1) @ self.w.T + self.b) @ self.v.T


def convolutional() -> nets.Net:
    """Three logits of 2x6x6 images, in float64, normalised by statistics that are not 0 and 1."""
    features = nn.Sequential(
        nets.conv(2, 6), nn.BatchNorm2d(6), nn.ReLU(), nets.conv(6, 8, stride=2), nn.BatchNorm2d(8), nn.ReLU()
    )
    net = nets.Net(features, 8, 3, 2).double()
    net.normalised_by(torch.tensor([0.4, 0.5]), torch.tensor([0.3, 0.2]))
    net(torch.rand(16, 2, 6, 6, dtype=torch.float64))
    return net.eval()


@pytest.fixture
def net():
    with frozen(convolutional()) as net:
        yield net


@pytest.fixture
def images(net):
    """Images of the size of every net here, and what `net` predicts."""
    x = torch.rand(7, 2, 6, 6, dtype=torch.float64)
    return x, net(x).argmax(1)


@pytest.fixture(scope="module")
def learnt():
    """A net that has learnt which quarter of an image is brighter, and images that it classifies correctly."""
    torch.manual_seed(0)
    net, y = nets.build("small", 1, 4), torch.randint(4, (64,))
    x = 0.3 * torch.rand(64, 1, 8, 8)
    for i, c in enumerate(y.tolist()):
        x[i, 0, 4 * (c // 2) : 4 * (c // 2) + 4, 4 * (c % 2) : 4 * (c % 2) + 4] += 0.5
    optimiser = torch.optim.Adam(net.parameters(), 0.01)
    for _ in range(30):
        optimiser.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimiser.step()
    with frozen(net.eval()):
        right = (net(x).argmax(1) == y).nonzero().squeeze(1)[:24]
        yield net, x[right], y[right]


def run(net, x, y, **settings):
    usual = {"explain": Gradient(), "objective": attribution.top_k(6), "criteria": CRITERIA, "steps": 3}
    eps = settings.setdefault("eps", 0.05)
    return attack(net, x, y, **{**usual, "step": eps / 4, **settings})


# Maps of a linear net


def test_maps_of_a_linear_net_are_its_weights():
    net, x, y = Linear(72, torch.float64), torch.rand(4, 2, 6, 6, dtype=torch.float64), torch.tensor([2, 0, 1, 2])
    row = net.w.detach()[y].view_as(x)
    with frozen(net):
        assert torch.equal(Gradient()(net, x, y), row)
        torch.testing.assert_close(SmoothGrad(3)(net, x, y), row)
        for rule in RULES:
            for factor in (True, False):
                torch.testing.assert_close(IntegratedGradients(5, rule, through_factor=factor)(net, x, y), x * row)


@pytest.mark.parametrize("start", ["uniform", "none"])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_no_attack_moves_the_gradient_of_a_linear_net(name, start):
    net, x = Linear(72, torch.float64), torch.rand(4, 2, 6, 6, dtype=torch.float64)
    with frozen(net):
        found = run(net, x, net(x).argmax(1), objective=OBJECTIVES[name], start=start)
    assert all((f.similarity == 1).all() and f.kept.any() for f in found.values())


# Derivatives by hand


def tanh_derivatives(a: Tensor) -> tuple[Tensor, Tensor]:
    t = a.tanh()
    return 1 - t**2, -2 * t * (1 - t**2)


def softplus_derivatives(a: Tensor) -> tuple[Tensor, Tensor]:
    s = (3 * a).sigmoid()
    return s, 3 * s * (1 - s)


@pytest.mark.parametrize("activation, derivatives", [(torch.tanh, tanh_derivatives), (F.relu, softplus_derivatives)])
def test_map_and_direction_of_the_top_k_attack_have_a_closed_form(activation, derivatives):
    """With I = N S / T, S the sum of |g| over channels, T the sum of S: the Hessian times the gradient in g."""
    net, k, pixels = TwoLayers(activation), 6, 36
    x, y = torch.rand(4, 2, 6, 6, dtype=torch.float64), torch.tensor([2, 0, 1, 2])
    z = (x + 0.1 * torch.randn_like(x)).requires_grad_(True)

    def by_hand(at):
        first, second = derivatives(at.flatten(1) @ net.w.T + net.b)
        hessian = net.w.T @ torch.diag_embed(net.v[y] * second) @ net.w
        return ((net.v[y] * first) @ net.w).view_as(at), hessian

    with frozen(net):
        surrogate = softened(net, 3.0)
        g, clean = Gradient()(surrogate, z, y), explain_similarity.importance(Gradient()(surrogate, x, y))
        value = attribution.top_k(k)(clean)(explain_similarity.importance(g))
        direction = gradient(value, z)
        expected, hessian = by_hand(z.detach())
        size_of_clean = by_hand(x)[0].abs().sum(1).flatten(1)
    torch.testing.assert_close(g.detach(), expected)
    top = torch.zeros(4, pixels).scatter(1, size_of_clean.topk(k).indices, 1).double()
    size = expected.abs().sum(1).flatten(1)
    total = size.sum(1, keepdim=True)
    share = (size * top).sum(1, keepdim=True) / total
    torch.testing.assert_close(value.detach(), -pixels * share.squeeze(1))
    in_size = (-pixels / total * (top - share)).view(4, 1, 6, 6)
    in_gradient = (expected.sign() * in_size).flatten(1)
    torch.testing.assert_close(direction.flatten(1), (hessian @ in_gradient[..., None]).squeeze(-1))


@pytest.mark.parametrize("objective", ["top_k", "mass_centre", "towards"])
@pytest.mark.parametrize("name", MAPS)
def test_directions_by_finite_differences(name, objective, net, images):
    """What is taken as given is held fixed: the factor of integrated gradients, the spread of SmoothGrad's noise."""
    (x, y), explain, surrogate = images, MAPS[name], softened(net, 5.0)
    goal = OBJECTIVES[objective](explain_similarity.importance(explain(surrogate, x, y)))
    at = 0.1 + x + 0.02 * torch.randn_like(x)  # nowhere 0, as it is divided by
    extremes = torch.stack([at.flatten(1).argmax(1), at.flatten(1).argmin(1)], 1)
    u = torch.randn(7, 72).scatter(1, extremes, 0).view_as(at).double()

    def value(z):
        maps = explain(surrogate, z, y)
        if name == "integrated, fixed factor":
            maps = maps / z.detach() * at
        return goal(explain_similarity.importance(maps))

    z = at.clone().requires_grad_(True)
    slope = (gradient(value(z), z) * u).sum((1, 2, 3))
    h = 1e-6
    torch.testing.assert_close(slope, (value(at + h * u) - value(at - h * u)) / (2 * h), rtol=1e-5, atol=1e-7)
    assert slope.abs().min() > 1e-4


def test_the_factor_is_a_part_of_the_direction_or_not(net, images):
    (x, y), maps = images, {}
    for factor in (True, False):
        z = x.clone().requires_grad_(True)
        m = IntegratedGradients(4, through_factor=factor)(softened(net, 5.0), z, y)
        maps[factor] = m.detach(), gradient(m, z)
    torch.testing.assert_close(maps[True][0], maps[False][0])
    mean = maps[True][0] / x
    torch.testing.assert_close(maps[True][1], maps[False][1] + mean)


# First order


METHODS = {"right": ("riemann_right", 0), "midpoint": ("riemann_middle", 0), "trapezoid": ("riemann_trapezoid", 1)}


@pytest.mark.parametrize("of", ["logit", "loss"])
@pytest.mark.parametrize("rule", RULES)
def test_integrated_gradients_are_those_of_captum(rule, of, net, images):
    x, y = images
    method, ends = METHODS[rule]
    if of == "logit":
        oracle = captum.attr.IntegratedGradients(net).attribute
        expected = oracle(x, target=y, n_steps=9 + ends, method=method)
    else:
        oracle = captum.attr.IntegratedGradients(lambda z, y: F.cross_entropy(net(z), y, reduction="none")).attribute
        expected = oracle(x, additional_forward_args=(y,), n_steps=9 + ends, method=method)
    expected = expected * (9 + ends) / 9  # captum divides by the number of places, not of intervals
    torch.testing.assert_close(IntegratedGradients(9, rule, of)(net, x, y), expected, rtol=1e-5, atol=1e-8)


def test_rotating_places_are_in_turn_the_published_ones(net, images):
    x, y = images
    rotating = IntegratedGradients(5, "rotating")
    each = [rotating.at_step(step)(net, x, y) for step in range(20)]
    whole = IntegratedGradients(50, "right")(net, x, y)
    for turn in range(4):  # any ten steps in a row
        torch.testing.assert_close(torch.stack(each[turn : turn + 10]).mean(0), whole)
    assert len({float(m.sum()) for m in each[:10]}) == 10 and torch.equal(each[0], each[10])
    assert IntegratedGradients(5).at_step(3) == IntegratedGradients(5)


def test_integrated_gradients_sum_to_what_the_way_from_black_changes(net, images):
    x, y = images
    black, there = net(torch.zeros_like(x)), net(x)
    sums = {of: IntegratedGradients(2000, "trapezoid", of)(net, x, y).sum((1, 2, 3)) for of in ("logit", "loss")}
    torch.testing.assert_close(sums["logit"], (there - black).gather(1, y[:, None]).squeeze(1), rtol=0, atol=1e-3)
    loss = F.cross_entropy(there, y, reduction="none") - F.cross_entropy(black, y, reduction="none")
    torch.testing.assert_close(sums["loss"], loss, rtol=0, atol=1e-3)


def test_the_gradient_is_that_of_captum(net, images):
    x, y = images
    expected = captum.attr.Saliency(net).attribute(x.clone().requires_grad_(True), target=y, abs=False)
    torch.testing.assert_close(Gradient()(net, x, y), expected)


def test_maps_to_attack_are_those_to_train_on_up_to_their_constants(net, images, monkeypatch):
    x, y = images
    ours = IntegratedGradients(100, "trapezoid")(net, x, y)
    torch.testing.assert_close(ours, trapezoids(100, 128).detached(net, x, y))
    explain = SmoothGrad(5, 0.3)
    draws = iter(torch.randn(5, 1, 2, 6, 6, generator=torch.Generator().manual_seed(0)).double())
    ours = explain(net, x, y)
    monkeypatch.setattr(torch, "randn_like", lambda x: next(draws).expand_as(x))
    torch.testing.assert_close(ours, SmoothGrad(5, 0.3, "fresh").detached(net, x, y))


@pytest.mark.parametrize("name", MAPS)
def test_a_map_has_a_graph_where_it_is_asked_for(name, net, images):
    x, y = images
    with torch.no_grad():
        plain = MAPS[name](softened(net), x, y)
    z = x.clone().requires_grad_(True)
    asked = MAPS[name](softened(net), z, y)
    assert asked.requires_grad and not plain.requires_grad and z.grad is None
    torch.testing.assert_close(asked.detach(), plain)


# A few at a time


@pytest.mark.parametrize("name", MAPS)
def test_an_image_is_explained_by_itself(name, net, images):
    x, y = images
    together = MAPS[name](net, x, y)
    alone = torch.cat([MAPS[name](net, *one) for one in zip(x.split(1), y.split(1), strict=True)])
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=1e-12)
    assert MAPS[name](net, x[:0], y[:0]).shape == together[:0].shape


@pytest.mark.parametrize("chunk", [1, 7, 14, 21])
@pytest.mark.parametrize(
    "settings", [*({"rule": r} for r in RULES), {"through_factor": False}, {"of": "loss"}], ids=str
)
def test_places_taken_in_turn_change_neither_map_nor_direction(settings, chunk, net, images):
    (x, y), results, v = images, [], torch.randn(7, 2, 6, 6).double()
    for together in (chunk, 10_000):
        z = x.clone().requires_grad_(True)
        maps = IntegratedGradients(5, chunk=together, **settings)(softened(net), z, y)
        (direction,) = torch.autograd.grad((maps * v).sum(), z)
        results.append((maps.detach(), direction, IntegratedGradients(5, chunk=together, **settings)(net, x, y)))
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-13)


def test_places_taken_in_turn_are_not_held_together(net, images):
    class Kept:
        def __init__(self, t):
            self.t = t

    def held(chunk):
        kept = weakref.WeakSet()

        def keep(t):
            box = Kept(t)
            kept.add(box)
            return box

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda box: box.t):
            z = images[0].clone().requires_grad_(True)
            maps = IntegratedGradients(20, chunk=chunk)(softened(net), z, images[1])
        size = sum({box.t.data_ptr(): box.t.numel() for box in kept}.values())
        assert maps.requires_grad
        return size

    assert held(7) < held(10_000) / 20


def test_attacks_taken_a_few_images_at_a_time_find_the_same(net, images, monkeypatch):
    x, y = images
    found = []
    for pixels in (36, 36 * 12, 10**6):  # one image whose places come in turn; three images; all of them
        monkeypatch.setitem(input_gradients.PIXELS, "cpu", pixels)
        found.append(run(net, x, y, explain=IntegratedGradients(4), start="none"))
    for some in found[:2]:
        for criterion in CRITERIA:
            torch.testing.assert_close(some[criterion].z, found[2][criterion].z)
            torch.testing.assert_close(some[criterion].similarity, found[2][criterion].similarity)


# The attack: what it promises


@pytest.mark.parametrize("eps", [1 / 255, 0.1, 3.0])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_what_is_found_lies_in_the_ball_and_in_the_box(name, eps, net, images):
    x, y = images
    x[0], x[1] = 0, 1
    for start in ("uniform", "none"):
        with torch.no_grad():
            found = run(net, x, y, objective=OBJECTIVES[name], eps=eps, start=start)
        for f in found.values():
            assert f.z.shape == x.shape and f.z.dtype == x.dtype and not f.z.requires_grad
            assert (f.z - x).abs().max() <= eps + 1e-9 and f.z.min() >= 0 and f.z.max() <= 1


@dataclasses.dataclass
class Seen:
    """An explanation that notes which images it was asked about."""

    explain: object
    at: list = dataclasses.field(default_factory=list)

    @property
    def passes(self):
        return self.explain.passes

    def __call__(self, net, z, y):
        self.at.append(z.detach().clone())
        return self.explain(net, z, y)

    def at_step(self, step):
        return self


@pytest.mark.parametrize("see_last", [True, False])
@pytest.mark.parametrize("objective", ["top_k", "mass_centre", "random_signs"])
@pytest.mark.parametrize("explain", ["gradient", "integrated, midpoint", "gradcam_pp"])
def test_found_is_the_least_alike_of_all_images_seen_that_keep_the_prediction(explain, objective, see_last, learnt):
    net, x, y = learnt
    seen = Seen(MAPS[explain])
    found = run(net, x, y, explain=seen, objective=OBJECTIVES[objective], eps=0.3, step=0.1, steps=5, see_last=see_last)
    clean, *visited = seen.at
    assert torch.equal(clean, x) and len(visited) == 5 + see_last
    surrogate = softened(net)
    of = [explain_similarity.importance(MAPS[explain](surrogate, z, y)) for z in seen.at]
    kept = torch.stack([net(z).argmax(1) == y for z in visited])
    assert kept.any() and not kept.all()
    for name, criterion in CRITERIA.items():
        similarity = torch.stack([criterion(of[0], s) for s in of[1:]]).masked_fill(~kept, torch.inf)
        least, step = similarity.min(0)
        torch.testing.assert_close(found[name].similarity, least, rtol=0, atol=1e-5)
        assert torch.equal(found[name].kept, kept.any(0))
        which = torch.where(kept.any(0), step, -1)
        expected = torch.stack([x[i] if s < 0 else visited[s][i] for i, s in enumerate(which.tolist())])
        same = (found[name].z == expected).flatten(1).all(1)
        assert same.double().mean() > 0.9  # all but where two are as alike


def test_the_prediction_is_kept_and_the_likeness_is_that_of_the_maps(learnt):
    net, x, y = learnt
    for f in run(net, x, y, explain=IntegratedGradients(5), eps=0.15, steps=6).values():
        assert torch.equal(net(f.z).argmax(1), y)  # where nothing was found, z is x, which is right
        assert f.kept.any()
    s = softened(net)
    a, b = (explain_similarity.importance(IntegratedGradients(5)(s, z, y)) for z in (x, f.z))
    torch.testing.assert_close(f.similarity[f.kept], CRITERIA["in"](a, b)[f.kept])


@pytest.mark.parametrize("see_last", [True, False])
def test_a_judge_sees_the_net_itself_and_decides_which_image_is_kept(see_last, learnt):
    net, x, y = learnt
    judge, explain = IntegratedGradients(7, "right"), Seen(MAPS["gradient"])
    more = {"explain": explain, "eps": 0.3, "step": 0.1, "steps": 5, "see_last": see_last}
    found = run(net, x, y, judge=judge, **more)
    visited = explain.at if not see_last else None
    clean = explain_similarity.importance(judge(net, x, y))
    for name, criterion in CRITERIA.items():
        there = explain_similarity.importance(judge(net, found[name].z, y))
        kept = found[name].kept
        torch.testing.assert_close(found[name].similarity[kept], criterion(clean, there)[kept])
        if visited:
            assert len(visited) == 5
            of = [criterion(clean, explain_similarity.importance(judge(net, z, y))) for z in visited]
            right = torch.stack([net(z).argmax(1) == y for z in visited])
            torch.testing.assert_close(found[name].similarity, torch.stack(of).masked_fill(~right, torch.inf).amin(0))
            assert torch.equal(kept, right.any(0)) and kept.any() and not right.all()


def test_denormal_numbers_are_rounded_during_an_attack_and_not_after_it(learnt):
    net, x, y = learnt
    smallest, seen = torch.tensor(torch.finfo(torch.float32).tiny), []

    def objective(clean):
        def total(s):
            seen.append(float(smallest / 2))
            return s.sum((1, 2))

        return total

    for before in (False, True):
        torch.set_flush_denormal(before)
        try:
            run(net, x, y, objective=objective, steps=1)
            assert seen.pop() == 0 and (float(smallest / 2) == 0) is before
        finally:
            torch.set_flush_denormal(False)


@pytest.mark.parametrize("beta", [2.0, 50.0])
def test_the_net_that_is_attacked_is_as_soft_as_asked(beta, learnt):
    net, x, y = learnt
    asked = []

    def objective(clean):
        asked.append(clean)
        return attribution.top_k(6)(clean)

    run(net, x, y, objective=objective, beta=beta)
    torch.testing.assert_close(asked[0], explain_similarity.importance(Gradient()(softened(net, beta), x, y)))


@pytest.mark.parametrize("see_last", [True, False])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_without_room_nothing_moves(name, see_last, learnt):
    net, x, y = learnt
    for f in run(net, x, y, objective=OBJECTIVES[name], eps=0.0, see_last=see_last).values():
        assert torch.equal(f.z, x) and (f.similarity == 1).all() and f.kept.all()


@pytest.mark.parametrize("name", ["top_k", "mass_centre", "towards"])
def test_more_steps_from_the_same_start_never_find_less(name, net, images):
    similarity = []
    for steps in (0, 1, 3, 10):
        torch.manual_seed(3)
        found = run(net, *images, objective=OBJECTIVES[name], steps=steps, eps=0.1, step=0.02)
        similarity.append(torch.stack([f.similarity for f in found.values()]))
    for few, many in itertools.pairwise(similarity):
        assert (many <= few).all()
    assert (similarity[-1] < similarity[0]).any()


def test_an_image_whose_prediction_every_step_changes_is_not_kept():
    (net, x), y = fragile(), torch.zeros(8, dtype=torch.long)
    with frozen(net):
        found, from_x = (run(net, x, y, step=0.013, start=start) for start in ("uniform", "none"))
    for name, f in found.items():
        assert f.kept.tolist() == [False] * 4 + [True] * 4, name
        assert torch.equal(f.z[:4], x[:4]) and not torch.equal(f.z[4:], x[4:])
        assert f.similarity[:4].isinf().all() and (f.similarity[4:] <= 1).all()
    for f in from_x.values():  # x itself is seen first
        assert f.kept.all() and torch.equal(f.z[:4], x[:4]) and (f.similarity[:4] == 1).all()


# The attack: what it can do


@pytest.mark.parametrize("name", attackable())
def test_random_signs_are_weaker_than_the_attack(name, learnt):
    net, x, y = learnt
    explain = IntegratedGradients(5) if name == "integrated_gradients" else attackable()[name]()
    mean = {}
    for objective in ("top_k", "random_signs"):
        found = run(net, x, y, explain=explain, objective=OBJECTIVES[objective], eps=0.06, step=0.01, steps=10)
        mean[objective] = {criterion: f.similarity[f.kept].mean().item() for criterion, f in found.items()}
    assert mean["top_k"]["in"] < mean["random_signs"]["in"] - 0.1
    assert mean["top_k"]["k"] < mean["random_signs"]["k"]
    assert mean["random_signs"]["in"] < 1


def test_the_centre_of_mass_is_moved_further_than_at_random(learnt):
    net, x, y = learnt

    def nearness(a, b):
        return -(explain_similarity.mass_centre(a) - explain_similarity.mass_centre(b)).norm(dim=1)

    moved = {}
    for name in ("mass_centre", "random_signs"):
        found = run(net, x, y, objective=OBJECTIVES[name], criteria={"c": nearness}, eps=0.06, step=0.01, steps=10)
        moved[name] = -found["c"].similarity.mean().item()
    assert moved["mass_centre"] > 1.5 * moved["random_signs"] > 0


def test_a_map_can_be_drawn_towards_a_planted_one(learnt):
    net, x, y = learnt
    target = torch.zeros(8, 8)
    target[:2, :2] = 1

    def unlike(a, b):
        return -explain_similarity.cosine(b, target.expand_as(b).contiguous())

    drawn = {}
    for name, objective in (("towards", attribution.towards(target)), ("random_signs", attribution.random_signs)):
        found = run(net, x, y, objective=objective, criteria={"c": unlike}, eps=0.06, step=0.01, steps=10)
        drawn[name] = -found["c"].similarity
    before = explain_similarity.cosine(
        explain_similarity.importance(Gradient()(softened(net), x, y)), target.expand(len(x), 8, 8)
    )
    assert (drawn["towards"] > before).double().mean() > 0.9
    assert drawn["towards"].mean() > drawn["random_signs"].mean() + 0.05


def test_steps_against_the_true_net_stand_still(learnt):
    """Why there is a surrogate: the derivative of a ReLU net's gradient is 0."""
    net, x, y = learnt
    z = x.clone().requires_grad_(True)
    for model, blind in ((net, True), (softened(net), False)):
        s = explain_similarity.importance(Gradient()(model, z, y))
        assert gradient(attribution.top_k(6)(s.detach())(s), z).any() != blind


# The attack: what it leaves behind


def test_the_net_is_left_as_it_was():
    net, x = convolutional(), torch.rand(5, 2, 6, 6, dtype=torch.float64)
    y = net(x).argmax(1)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    for name in MAPS:
        with frozen(net):
            run(net, x, y, explain=MAPS[name])
    run(net, x, y)  # not frozen, in evaluation mode
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in net.parameters())
    for m in net.modules():
        assert not m.training and not (m._forward_hooks or m._forward_pre_hooks or m._backward_hooks)
    assert not x.requires_grad and x.grad is None


@pytest.mark.parametrize("name", MAPS)
def test_no_graph_outlives_the_attack(name, net, images):
    alive = []

    def objective(clean):
        assert not clean.requires_grad
        inner = attribution.top_k(6)(clean)

        def noted(s):
            alive.append(weakref.ref(s))
            return inner(s)

        return noted

    found = run(net, *images, explain=MAPS[name], objective=objective)
    assert len(alive) == 3 and not any(ref() is not None for ref in alive)
    for f in found.values():
        assert f.z.grad_fn is None and f.similarity.grad_fn is None


def test_same_seed_same_result(net, images):
    results = []
    for _ in range(2):
        torch.manual_seed(1)
        results.append(run(net, *images, objective=attribution.random_signs)["k"].z)
    assert torch.equal(*results)


def test_no_images_are_attacked_without_complaint(net, images):
    x, y = (t[:0] for t in images)
    for name, explain in MAPS.items():
        for objective in OBJECTIVES.values():
            found = run(net, x, y, explain=explain, objective=objective)
            assert all(f.z.shape == x.shape and len(f.similarity) == len(f.kept) == 0 for f in found.values()), name


# What is refused


def refused(match, *args, **settings):
    with pytest.raises(UserError, match=match) as error:
        run(*args, **settings)
    assert "\n" not in str(error.value)


def test_k_beyond_the_map_is_refused(net, images):
    refused(
        "between 1 and the number of pixels of a 6 x 6 map, not be 37$", net, *images, objective=attribution.top_k(37)
    )


def test_a_net_of_one_logit_is_refused(images):
    net = nn.Sequential(nn.Flatten(), nn.Linear(72, 1)).double()
    refused("at least two classes; this one has 1$", net, images[0], torch.zeros(7, dtype=torch.long))


def test_activation_maps_need_features(images):
    net = TwoLayers(F.relu)
    refused(
        "need a Net of harness.models, or the name .*, not TwoLayers alone$", net, *images, explain=GradCAMPlusPlus()
    )
    with pytest.raises(UserError, match=r"not TwoLayers alone$"):
        GradCAMPlusPlus()(net, *images)
