"""The protocols and their suites: a plain reference, nets of known answer, and what must hold for every net."""

import copy
import itertools
import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from oracles import Function, Wrapped, fragile, mask
from scipy.stats import kendalltau
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from harness.attacks import attribution as attacks_attribution
from harness.config.trial import build
from harness.data.batches import Batch
from harness.data.datasets import Split
from harness.errors import UserError
from harness.evaluation import attribution_protocols, batching, evaluator, suites
from harness.evaluation.attribution_protocols import (
    art,
    bound,
    completeness,
    fast,
    protocol_metric,
    rar,
    similarities,
    strong,
)
from harness.evaluation.metrics import DROPPING
from harness.evaluation.settings import Attribution, Measure
from harness.explain import input_gradients
from harness.explain import similarity as explain_similarity
from harness.explain.integrated_gradients import IntegratedGradients
from harness.explain.maps import attackable
from harness.models.freezing import frozen
from harness.models.nets import Net
from harness.randomness import PerImageRng

BRIEF = Attribution(eps=16 / 255, k=10, steps=4, points=3, restarts=1)
ALL = {
    "art": art,
    "rar": rar,
    "fast": fast,
    "strong": strong,
    "random": lambda settings: strong(settings, control=True),
    **{f"strong-{name}": lambda settings, name=name: strong(settings, name) for name in attackable()},
}


def layered(activation) -> Net:
    features = nn.Sequential(nn.Conv2d(1, 16, 3, 2, 1), activation, nn.Conv2d(16, 24, 3, 1, 1), activation)
    return Net(features, 24, 10, 1)


@pytest.fixture(scope="module")
def digits():
    """A net that has learnt real digits, and images that it has not seen, as bytes, with their labels."""
    torch.manual_seed(0)
    data = load_digits()
    x = torch.from_numpy(data.images)[:, None].mul(255 / 16).round().byte()
    y, net = torch.from_numpy(data.target), layered(nn.ReLU())
    optimiser = torch.optim.Adam(net.parameters(), 0.01)
    for _ in range(8):
        for i in torch.randperm(1400).split(64):
            optimiser.zero_grad()
            F.cross_entropy(net(x[i].float() / 255), y[i]).backward()
            optimiser.step()
    optimiser.zero_grad()
    with frozen(net.eval()):
        yield net, Split(x[1400:], y[1400:])


@pytest.fixture
def right(digits):
    """The net and 24 images that it classifies correctly."""
    net, split = digits
    x = split.x.float() / 255
    index = (net(x).argmax(1) == split.y).nonzero().squeeze(1)[:24]
    return net, Batch(x[index], split.y[index])


@pytest.fixture
def quick(monkeypatch):
    """Maps are scored, and attacked as published, in few intervals."""
    for points in ("SCORING_POINTS", "PUBLISHED_POINTS"):
        monkeypatch.setattr(attribution_protocols, points, 6)


def values(name, net, batch, settings=BRIEF, seed=7) -> dict[str, Tensor]:
    """Every measure of a protocol, by its own name."""
    batch = replace(batch, draws=PerImageRng(torch.arange(len(batch)), (seed,)))
    found = protocol_metric("x", ALL[name](settings) if isinstance(name, str) else name, settings)(net, batch)
    return {key.removeprefix("x-"): v for key, v in found.items()}


# Settings


def test_the_published_protocols_are_the_defaults():
    settings = Attribution()
    assert (settings.eps, settings.k, settings.steps, settings.beta) == (8 / 255, 100, 50, 50.0)
    assert attribution_protocols.step_of(settings) == 1 / 255 and attribution_protocols.SCORING_POINTS == 100
    assert attribution_protocols.step_of(Attribution(eps=0.5, step=0.25)) == 0.25

    p = art(settings)
    assert (p.start, p.restarts, p.see_last, p.drop) == ("uniform", 1, False, True)
    assert (p.attacked.of, p.attacked.through_factor) == ("logit", False)
    assert (p.attacked.points, p.attacked.rule, p.judge) == (100, "right", IntegratedGradients(100, "right"))
    assert (p.scored.of, p.scored.rule, p.scored.points) == ("loss", "trapezoid", 100)

    p = rar(settings)
    assert (p.start, p.restarts, p.see_last, p.drop) == ("none", 1, True, False)
    assert (p.attacked.of, p.attacked.through_factor) == ("logit", True)
    assert (p.attacked.points, p.attacked.rule, p.judge) == (100, "right", IntegratedGradients(100, "right"))
    assert (p.scored.of, p.scored.rule, p.scored.points) == ("logit", "right", 100)

    cheaper = {"attacked": art(settings).attacked, "judge": art(settings).judge}
    assert replace(fast(settings), **cheaper, criteria=p.criteria, objectives=()) == replace(
        art(settings), criteria=p.criteria, objectives=()
    )
    for points in (7, 1):  # a setting of the project's own protocols
        same = replace(settings, points=points)
        assert (art(same).attacked, rar(same).attacked) == (art(settings).attacked, rar(settings).attacked)
        assert fast(same).attacked.points == points

    p = strong(replace(settings, restarts=3, points=7))
    assert (p.start, p.restarts, p.see_last, p.drop) == ("uniform", 3, True, False)
    assert (p.attacked.of, p.attacked.points, p.scored.of, p.scored.points) == ("logit", 7, "logit", 100)
    assert len(p.objectives) == 2 and set(p.criteria) == {"in", "k"}


@pytest.mark.parametrize("name", attackable())
def test_the_control_differs_from_the_attack_in_its_steps_only(name):
    attack, control = strong(BRIEF, name), strong(BRIEF, name, control=True)
    assert control.objectives == (attacks_attribution.random_signs,) * 2
    assert {**control.description(), "objectives": 0} == {**attack.description(), "objectives": 0}
    assert attack.description()["objectives"] == ["top_k", "mass_centre"]
    if name != "integrated_gradients":
        assert attack.attacked == attack.scored == attackable()[name]()


def test_art_chooses_by_the_order_within_the_clean_top(right):
    a, b = torch.rand(2, 5, 8, 8)
    ours = art(replace(BRIEF, k=12)).criteria["tau"](a, b)
    for i in range(5):
        top = np.argsort(-a[i].numpy().ravel())[:12]
        masked = [np.zeros(64), np.zeros(64)]
        for m, s in zip(masked, (a, b), strict=True):
            m[top] = s[i].numpy().ravel()[top]
        assert ours[i].item() == pytest.approx(kendalltau(*masked).statistic, abs=1e-6)


# A reference, one image at a time


K, EPS, STEPS = 10, 16 / 255, 15


def as_map(attribution: Tensor) -> Tensor:
    s = attribution.abs().sum(0)
    return s / s.sum() * s.numel()


def along_the_way(net, x, y, graph=False):
    """100 places k/100 on the way from black, and the gradient of the label's logit there."""
    share = (torch.arange(1, 101, dtype=x.dtype) / 100).view(-1, 1, 1, 1)
    places = (share * x).requires_grad_(True)
    (g,) = torch.autograd.grad(net(places)[:, y].sum(), places, create_graph=graph)
    return share, places, g


def scored_map(net, x, y):
    """Integrated gradients of the cross-entropy, 100 intervals, by the trapezoidal rule."""
    places = (torch.linspace(0, 1, 101, dtype=x.dtype).view(-1, 1, 1, 1) * x).requires_grad_(True)
    (g,) = torch.autograd.grad(F.cross_entropy(net(places), torch.full((101,), y), reduction="sum"), places)
    return as_map(x * (g[:-1] + g[1:]).mean(0) / 2).numpy()


def direction_down(smooth, z, y, mask, through_factor):
    """Sign of the gradient of the mass in the mask, every place weighted by its share."""
    share, places, g = along_the_way(smooth, z, y, graph=True)
    mass = (as_map((places[-1] if through_factor else z) * g.mean(0)) * mask).sum()
    (direction,) = torch.autograd.grad(mass, places)
    return -(share * direction).sum(0).sign()


def logit_map(net, x, y):
    return as_map(x * along_the_way(net, x, y)[2].mean(0)).detach()


def similarity(one, other):
    """IN and K of two maps."""
    tops = [set(np.argsort(-m.ravel(), kind="stable")[:K]) for m in (one, other)]
    return len(tops[0] & tops[1]) / K, kendalltau(one.ravel(), other.ravel()).statistic


def stepped(z, x, direction):
    z = z + EPS / 8 * direction
    return torch.minimum(torch.maximum(z, x - EPS), x + EPS).clamp(0, 1)


def by_singh(net, smooth, x, y, start):
    """IN and K of one image after Singh et al. (2020): looks before every step, at the order within the clean top."""
    clean = logit_map(net, x, y)
    mask = torch.zeros(64).scatter(0, clean.flatten().topk(K).indices, 1).view(8, 8)
    z, best, least = (x + start).clamp(0, 1), None, np.inf
    for _ in range(STEPS):
        tau = kendalltau((clean * mask).flatten(), (logit_map(net, z, y) * mask).flatten()).statistic
        if net(z[None]).argmax() == y and tau < least:
            best, least = z, tau
        z = stepped(z, x, direction_down(smooth, z, y, mask, through_factor=False))
    return (np.nan, np.nan) if best is None else similarity(scored_map(net, x, y), scored_map(net, best, y))


def by_chen(net, smooth, x, y, _):
    """IN and K of one image after Chen et al. (2019): looks after every step, at the order of all pixels."""
    clean = logit_map(net, x, y)
    mask = torch.zeros(64).scatter(0, clean.flatten().topk(K).indices, 1).view(8, 8)
    z, best, least = x, None, 1.0
    for _ in range(STEPS):
        z = stepped(z, x, direction_down(smooth, z, y, mask, through_factor=True))
        tau = kendalltau(clean.flatten(), logit_map(net, z, y).flatten()).statistic
        if net(z[None]).argmax() == y and tau < least:
            best, least = z, tau
    return (1.0, 1.0) if best is None else similarity(clean.numpy(), logit_map(net, best, y).numpy())


@pytest.fixture
def twins(right):
    """The net, its twin built of softplus, and eight images; in float64."""
    net, batch = right[0], Batch(right[1].x[:8], right[1].y[:8])
    smooth = layered(nn.Softplus(50.0)).eval().requires_grad_(False)
    smooth.load_state_dict(net.state_dict())
    draws = PerImageRng(torch.arange(len(batch)), (7,))
    return copy.deepcopy(net).double(), smooth.double(), Batch(batch.x.double(), batch.y, draws=draws)


def by_reference(rule, net, smooth, batch):
    starts = EPS * (2 * batch.draws.stream(0, 0).uniform(*batch.x.shape[1:]).double() - 1)
    each = zip(batch.x, batch.y.tolist(), starts, strict=True)
    return np.array([rule(net, smooth, x, y, start) for x, y, start in each])


def by_us(name, net, batch, **more):
    settings = Attribution(eps=EPS, k=K, steps=STEPS, **more)
    found = protocol_metric("x", ALL[name](settings), settings)(net, batch)
    return torch.stack([found["x-in"], found["x-k"]], 1).numpy()


@pytest.mark.parametrize(("name", "rule"), [("art", by_singh), ("rar", by_chen)])
def test_a_protocol_named_after_a_paper_is_that_papers_image_by_image(name, rule, twins):
    net, smooth, batch = twins
    expected = by_reference(rule, net, smooth, batch)
    np.testing.assert_allclose(by_us(name, net, batch), expected, atol=1e-6)
    assert np.nanmean(expected, 0).max() < 0.97  # so that this says something


@pytest.mark.parametrize(("name", "rule"), [("art", by_singh), ("rar", by_chen)])
def test_published_protocols_leave_max_pooling_as_it_is(name, rule, twins):
    """The released code puts softplus in the place of ReLU, and nothing in the place of a maximum."""

    def pooled(activation):
        layers = nn.Conv2d(1, 6, 3, padding=1), activation, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(96, 10)
        return nn.Sequential(*layers).double().eval().requires_grad_(False)

    torch.manual_seed(3)
    net, smooth = pooled(nn.ReLU()), pooled(nn.Softplus(50.0))
    smooth.load_state_dict(net.state_dict())
    images = twins[2]
    batch = Batch(images.x, net(images.x).argmax(1), draws=images.draws)
    expected = by_reference(rule, net, smooth, batch)
    np.testing.assert_allclose(by_us(name, net, batch), expected, atol=1e-6)
    assert np.nanmean(expected, 0).max() < 0.97


def test_the_fast_protocol_finds_nearly_what_the_published_one_does(twins):
    net, _, batch = twins
    published, quick = (by_us(name, net, batch) for name in ("art", "fast"))
    assert 0 < np.nanmean(np.abs(quick - published)) < 0.05


# What is measured


@pytest.mark.parametrize("name", ["art", "rar", "fast", "strong", "random", "strong-gradient"])
def test_an_image_that_no_step_keeps_is_dropped_by_art_and_counts_as_unmoved_elsewhere(name, quick):
    net, x = fragile()
    with frozen(net):
        found = values(name, net, Batch(x, torch.zeros(8, dtype=torch.long)), replace(BRIEF, step=0.0071))
    for measure, v in found.items():
        if name in DROPPING:
            assert v[:4].isnan().all(), measure
        else:
            assert (v[:4] == 1).all(), measure
        assert not v[4:].isnan().any() and (v[4:] <= 1).all()
    assert (found["k"][4:] < 1).all()


@pytest.mark.sample("art", "rar", "random", "strong-gradient", "strong-gradcam_pp")
@pytest.mark.parametrize("name", ALL)
def test_without_room_every_measure_is_exactly_1(name, right, quick, monkeypatch):
    net, batch = right
    for pixels in (64 * 5, 80 * 1024):
        monkeypatch.setitem(input_gradients.PIXELS, "cpu", pixels)
        found = values(name, net, batch, replace(BRIEF, eps=0.0))
        assert list(found) == list(similarities(10)) and all((v == 1).all() for v in found.values())


@pytest.mark.parametrize("name", ["gradient", "smoothgrad"])
@pytest.mark.parametrize("control", [False, True])
def test_no_protocol_moves_the_gradient_of_a_linear_net(name, control):
    net, x = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).double(), torch.rand(5, 1, 8, 8, dtype=torch.float64)
    with frozen(net):
        found = values(strong(BRIEF, name, control), net, Batch(x, net(x).argmax(1)))
    tolerance = 0 if name == "gradient" else 1e-9  # a mean of equal numbers is rounded
    assert all((1 - found[m]).abs().max() <= tolerance for m in ("in", "k", "cosine"))


def test_what_rar_finds_on_a_linear_net_has_a_closed_form():
    """The map is |z w|: every step takes from the top k and adds to the rest, until a pixel is black or white."""
    net, x = nn.Sequential(nn.Flatten(), nn.Linear(64, 2)).double(), torch.rand(9, 1, 8, 8, dtype=torch.float64)
    with frozen(net):
        y = net(x).argmax(1)
        found = values("rar", net, Batch(x, y))
        row = net[1].weight[y].view_as(x)
    clean = explain_similarity.importance(x * row)
    away = torch.where(explain_similarity.top_k(clean, 10)[:, None], -1, 1) * BRIEF.eps / 8
    least, at = torch.ones(9, dtype=torch.float64), clean
    for step in range(BRIEF.steps + 1):
        z = (x + step * away).clamp(0, 1)
        there = explain_similarity.importance(z * row)
        lower = (explain_similarity.kendall(clean, there) < least) & (net(z).argmax(1) == y)
        least = torch.where(lower, explain_similarity.kendall(clean, there), least)
        at = torch.where(lower[:, None, None], there, at)
    assert (least < 1).all()
    for measure, similarity in similarities(10).items():
        torch.testing.assert_close(found[measure], similarity(clean, at), rtol=0, atol=1e-6)


def test_art_does_not_move_the_map_of_a_linear_net_by_its_factor(quick):
    """Its steps follow the gradient of the net only, which is constant: only the random start moves anything."""
    net, x = nn.Sequential(nn.Flatten(), nn.Linear(64, 2)).double(), torch.rand(5, 1, 8, 8, dtype=torch.float64)
    with frozen(net):
        found = values(replace(art(BRIEF), start="none"), net, Batch(x, net(x).argmax(1)))
    assert all((v == 1).all() for v in found.values())


@pytest.mark.parametrize("name", ["art", "rar"])
def test_scored_is_the_true_net_at_what_the_attack_found(name, right, quick):
    net, batch = right
    protocol = replace(ALL[name](BRIEF), start="none")
    (found,) = attacks_attribution.attack(
        net,
        batch.x,
        batch.y,
        explain=protocol.attacked,
        judge=protocol.judge,
        objective=attacks_attribution.top_k(10),
        criteria=protocol.criteria,
        eps=BRIEF.eps,
        step=BRIEF.eps / 8,
        steps=4,
        start="none",
        see_last=protocol.see_last,
    ).values()
    a, b = (explain_similarity.importance(protocol.scored(net, at, batch.y)) for at in (batch.x, found.z))
    measures = values(protocol, net, batch)
    for measure, similarity in similarities(10).items():
        torch.testing.assert_close(measures[measure], similarity(a, b), rtol=0, atol=2e-3)
    assert (measures["k"] < 1).any()


@pytest.mark.sample("81920-False", "81920-True")
@pytest.mark.parametrize("control", [False, True])
@pytest.mark.parametrize("pixels", [64 * 3 * 5, 80 * 1024])  # batches of five images, or all at once
def test_more_restarts_never_find_less_image_by_image(pixels, control, right, quick, monkeypatch):
    net, batch = right
    monkeypatch.setitem(input_gradients.PIXELS, "cpu", pixels)
    found = [values(strong(replace(BRIEF, restarts=r), control=control), net, batch) for r in (1, 2, 3)]
    for few, many in itertools.pairwise(found):
        assert all((many[m] <= few[m]).all() for m in few)
    assert (found[2]["k"] < found[0]["k"]).any()


@pytest.mark.slow
def test_more_restarts_never_find_less_in_any_batch_of_an_evaluation(digits, quick, monkeypatch):
    net, split = digits
    monkeypatch.setattr(batching, "IMAGES", 9)
    found = []
    for restarts in (1, 2):
        settings = replace(BRIEF, restarts=restarts, steps=2, images=20)
        measure = Measure(suites=("attribution",))
        scores = evaluator.evaluate(net, split.head(40), measure, settings, name="val")
        found.append({s.name: s.per_example[~np.isnan(s.per_example)] for s in scores})
    for name in ("val/strong-in", "val/strong-k", "val/random-in", "val/random-k"):
        assert len(found[0][name]) == 20 and (found[1][name] <= found[0][name]).all()


def test_another_objective_only_adds_to_what_is_found(right, quick):
    net, batch = right
    both = strong(BRIEF)
    one, two = (values(p, net, batch) for p in (replace(both, objectives=both.objectives[:1]), both))
    assert all((two[m] <= one[m]).all() for m in one) and (two["k"] < one["k"]).any()


def test_neither_the_batch_nor_the_generator_moves_what_an_image_gets(right, quick):
    net, batch = right
    for name in ALL:
        whole = values(name, net, batch)
        torch.rand(3)
        draws = PerImageRng(torch.arange(24), (7,))
        some = slice(5, 9)
        part = Batch(batch.x[some], batch.y[some], draws=draws.select(some))
        found = protocol_metric("x", ALL[name](BRIEF), BRIEF)(net, part)
        for measure, there in whole.items():
            np.testing.assert_allclose(found[f"x-{measure}"], there[some], atol=1e-5, err_msg=measure)


@pytest.mark.sample("gradient", "gradcam_pp")
@pytest.mark.parametrize("explain", attackable())
def test_the_attack_is_stronger_than_its_control(explain, right, quick):
    net, batch = right
    settings = replace(BRIEF, steps=20, points=5)
    attack, control = (values(strong(settings, explain, c), net, batch, settings) for c in (False, True))
    assert attack["in"].mean() < control["in"].mean() - 0.05
    assert attack["k"].mean() < control["k"].mean() - 0.02


# Nets whose gradients hide something


class _Lie(torch.autograd.Function):
    """The identity, which says that its derivative is `share`; as often as it is asked."""

    @staticmethod
    def forward(ctx, x, share):
        ctx.share = share
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        return ctx.share * g, None


def test_a_map_of_zeros_counts_as_unmoved_and_completeness_tells(right, quick):
    """Quantised input has the gradient 0. Every map is 0, attack and control find 1, while the logits do move."""
    net, batch = right
    masked = Wrapped(net, lambda x: (x * 16).round() / 16)
    keep = masked(batch.x).argmax(1) == batch.y
    batch = Batch(batch.x[keep], batch.y[keep])
    with frozen(masked):
        for name in ("strong", "random"):
            assert all((v == 1).all() for v in values(name, masked, batch).values())
        honest, found = (completeness(BRIEF)(n, batch) for n in (net, masked))
    assert (honest["completeness"] == 1).all() and (found["completeness"] == 0).all()
    assert (found["completeness_right"] == 0).all()


@pytest.mark.parametrize("scale", [100, 1000])
def test_on_a_saturated_net_random_signs_find_as_much_as_the_attack(scale, right, quick):
    """Its gradient is 0 at most places, so steps by it lead nowhere: it is the control that gives such a net away."""
    net, batch = right
    gain = {}
    for name, masked in (("open", net), ("masked", Wrapped(net, after=lambda logits: (scale * logits).tanh()))):
        with frozen(masked):
            keep = masked(batch.x).argmax(1) == batch.y
            some = Batch(batch.x[keep], batch.y[keep])
            attack, control = (values(n, masked, some, replace(BRIEF, steps=10)) for n in ("strong", "random"))
        gain[name] = [(control[m] - attack[m]).mean().item() for m in ("in", "k")]
    assert max(gain["masked"]) < 0.01 < 0.02 < min(gain["open"])


def pooled(x):
    """Max pooling of [x, 0]."""
    return F.max_pool3d(torch.stack([x, torch.zeros_like(x)], 2), (2, 1, 1)).squeeze(2)


RELUS = {
    "F.relu": F.relu,
    "clamp": lambda x: x.clamp(min=0),
    "maximum": lambda x: torch.maximum(x, torch.zeros((), dtype=x.dtype)),
    "leaky": lambda x: F.leaky_relu(x, 0.0),
    "max pooling": pooled,
    "amax": lambda x: torch.stack([x, torch.zeros_like(x)]).amax(0),
}
MASKS = {
    "mask": mask,
    "where": lambda x: torch.where(x > 0, x, 0),
    "masked_fill": lambda x: x.masked_fill(x < 0, 0),
}


def written(net, function):
    """The net with that function for its ReLUs."""
    twin = copy.deepcopy(net)
    for i, layer in enumerate(twin.features):
        if isinstance(layer, nn.ReLU):
            twin.features[i] = Function(function)
    assert not any(isinstance(m, nn.ReLU) for m in twin.modules())
    return twin


def test_one_function_has_one_in_however_it_is_written(right):
    net, batch = right
    here = values("strong", net, batch)
    assert here["in"].nanmean() < 0.97
    for name, function in RELUS.items():
        there = values("strong", written(net, function), batch)
        for measure in ("in", "k"):
            off = (there[measure] - here[measure]).nanmean().abs()
            assert off < 0.01, f"{name}: {measure} differs by {off}"


@pytest.mark.parametrize("name", [*RELUS, *MASKS])
def test_a_net_of_masks_is_refused_and_the_same_net_of_maxima_is_not(name, right):
    net, batch = right
    twin = written(net, (RELUS | MASKS)[name])
    split = Split((255 * batch.x).round().to(torch.uint8), batch.y)
    asked = partial(evaluator.check_net, twin, Measure(suites=("attribution",)), BRIEF, split)
    if name in RELUS:
        asked()
        return
    with pytest.raises(UserError, match=r"^the second derivative of .* explains .* would be blind; .*write them as"):
        asked()


@pytest.mark.parametrize("share", [0.2, 0.0])
def test_completeness_sees_a_gradient_that_lies(share, right):
    net, batch = right
    liar = Wrapped(net, lambda x: _Lie.apply(x, share))
    with frozen(liar):
        honest, lying = (completeness(BRIEF)(n, batch) for n in (net, liar))
    assert (honest["completeness"] == 1).all() and lying["completeness"].mean() < 0.5
    torch.testing.assert_close(liar(batch.x), net(batch.x))


# What must hold


def random_nets():
    smooth = nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.Tanh(), nn.Linear(20, 5))
    two = nn.Sequential(nn.Flatten(), nn.Linear(64, 2, bias=False))
    two[1].weight.data[1] = -two[1].weight.data[0]
    return {"relu": layered(nn.ReLU()), "smooth": smooth, "two classes, linear": two}


@pytest.mark.parametrize("name", random_nets())
def test_bound_and_completeness_hold_for_any_net(name):
    net, x = random_nets()[name].eval(), torch.rand(20, 1, 8, 8)
    with frozen(net):
        batch = Batch(x, net(x).argmax(1))
        for eps in (0.0, 8 / 255, 0.3):
            settings = replace(BRIEF, eps=eps)
            found = {**bound(settings)(net, batch), **completeness(settings)(net, batch)}
            assert (found["bound_slack"] >= 0).all() and (found["completeness"] == 1).all()
            torch.testing.assert_close(found["bound_slack"], found["bound_right"] - found["bound_left"])


def test_the_bound_of_a_linear_net_has_a_closed_form():
    net, x = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).double(), torch.rand(9, 1, 8, 8, dtype=torch.float64)
    with frozen(net):
        y = net(x).argmax(1)
        exact, found = (bound(replace(BRIEF, eps=eps))(net, Batch(x, y)) for eps in (0.0, 0.1))
        row = net[1].weight[y].view_as(x)
    right = 2 * (row - x).abs().flatten(1).amax(1)
    assert (exact["bound_left"] == 0).all() and (found["bound_left"] == 0).all()
    torch.testing.assert_close(exact["bound_right"], right)
    assert (found["bound_right"] >= right + 0.1 - 1e-12).all()
    assert (found["bound_right"] <= right + 0.1 + 2 * 0.1 + 1e-12).all()


class Bowl(nn.Module):
    """The logit of class 0 is a |x|^2 / 2, whose gradient is a x: no image within eps changes it by more than a eps."""

    def forward(self, x: Tensor) -> Tensor:
        rise = 1.5 * x.square().flatten(1).sum(1)
        return torch.stack([rise, -rise], 1)


def test_the_bound_of_a_bowl_has_a_closed_form():
    x, eps = 0.3 + 0.4 * torch.rand(9, 1, 8, 8, dtype=torch.float64), 0.1
    found = bound(replace(BRIEF, eps=eps, steps=8))(Bowl(), Batch(x, torch.zeros(9, dtype=torch.long)))
    torch.testing.assert_close(found["bound_left"], torch.full((9,), 3 * eps).double())
    largest = x.flatten(1).amax(1)
    assert (found["bound_right"] >= 2 * 2 * largest + eps - 1e-12).all()
    assert (found["bound_right"] <= 2 * 2 * (largest + eps) + eps + 1e-12).all()


def test_both_sides_of_completeness_are_those_of_a_linear_net():
    net, x = nn.Sequential(nn.Flatten(), nn.Linear(64, 2)).double(), 0.3 + 0.4 * torch.rand(9, 1, 8, 8).double()
    net[1].weight.data[1] = -net[1].weight.data[0]
    with frozen(net):
        found = completeness(replace(BRIEF, eps=0.1))(net, Batch(x, net(x).argmax(1)))
    fall = 0.1 * net[1].weight[0].detach().abs().sum()  # PGD goes against every weight by eps
    for side in ("completeness_left", "completeness_right"):
        torch.testing.assert_close(found[side], fall.expand(9))


# What is refused


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"k": 65}, "attribution.k must be at most the 8 x 8 pixels of a map, not 65"),
        ({"maps": ("gradeint",)}, "attribution.maps: 'gradeint' is not known; did you mean 'gradient'?"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_it_is_trained(settings, message):
    with pytest.raises(UserError) as error:
        attribution_protocols.check(Attribution(**{"k": 10, **settings}), 10, 8, 8)
    assert str(error.value) == message
    attribution_protocols.check(Attribution(k=64, maps=tuple(attackable())), 2, 8, 8)


def test_one_class_has_no_other_to_be_attributed_against():
    with pytest.raises(UserError, match=r"of one class against others; the data has 1$"):
        attribution_protocols.check(BRIEF, 1, 8, 8)
    net = Net(nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU()), 3, 1, 1)
    with pytest.raises(UserError, match=r"at least two classes; this one has 1$"):
        values("strong", net, Batch(torch.rand(3, 1, 8, 8), torch.zeros(3, dtype=torch.long)))


@pytest.mark.parametrize(
    "setting, value, message",
    [
        ("eps", -0.1, "attribution.eps must be at least 0, not -0.1"),
        ("eps", 8, "attribution.eps is on the [0, 1] scale of pixels, such as 8/255; 8.0 is beyond it"),
        ("points", 0, "attribution.points must be at least 1, not 0"),
        ("steps", 0, "attribution.steps must be at least 1, not 0"),
        ("restarts", 0, "attribution.restarts must be at least 1, not 0"),
        ("k", 0, "attribution.k must be at least 1, not 0"),
        ("beta", 0, "attribution.beta must be positive, not 0.0"),
        ("beta", -2, "attribution.beta must be positive, not -2.0"),
        ("images", -1, "attribution.images must be at least 0, not -1"),
    ],
)
def test_settings_out_of_bounds_are_refused(setting, value, message):
    with pytest.raises(UserError) as error:
        build({"measure.suites": "attribution", f"attribution.{setting}": value})
    assert str(error.value) == message


# As scores


MEASURES = list(similarities(1))
LEGACY = Measure(suites=("attribution-legacy",))


def scores(net, split, measure=LEGACY, settings=BRIEF, **more):
    return {s.name: s for s in evaluator.evaluate(net, split, measure, settings, name="val", **more)}


@pytest.fixture
def tens(digits, quick):
    """The net and 30 images, some of which it classifies wrongly, the last correctly."""
    net, split = digits
    correct = net(split.x.float() / 255).argmax(1) == split.y
    wrong, right = (~correct).nonzero().squeeze(1), correct.nonzero().squeeze(1)
    index = torch.cat([right[:2], wrong[:3], right[2:10], wrong[3:5], right[10:25]])
    return net, split.at(index), correct[index]


def test_every_measure_of_every_map_is_a_score(tens):
    net, split, _ = tens
    both = Measure(suites=("attribution", "attribution-fast", "attribution-legacy"))
    found = scores(net, split.head(6), both, replace(BRIEF, maps=tuple(attackable()), steps=1))
    maps = ["", *(f"-{name}" for name in attackable() if name != "integrated_gradients")]
    assert {"-gradient", "-smoothgrad", "-gradcam_pp"} <= set(maps)
    names = {f"val/{who}{m}-{measure}" for who in ("strong", "random") for m in maps for measure in MEASURES}
    names |= {f"val/{who}-{measure}" for who in ("art", "rar", "fast") for measure in MEASURES}
    names |= {f"val/bound_{side}" for side in ("left", "right", "slack")}
    names |= {"val/completeness", "val/completeness_left", "val/completeness_right"}
    assert set(found) == names
    for m in maps:
        assert found[f"val/random{m}-in"].protocol["objectives"] == ["random_signs", "random_signs"]
        assert found[f"val/strong{m}-in"].protocol["objectives"] == ["top_k", "mass_centre"]
    for score in found.values():
        assert json.loads(json.dumps(score.record()))["protocol"]["eps"] == BRIEF.eps


def test_a_score_counts_the_images_that_are_classified_correctly(tens):
    net, split, correct = tens
    for name, score in scores(net, split).items():
        counted = ~np.isnan(score.per_example)
        dropped = 25 - int(counted.sum())
        assert len(counted) == 30 and not counted[~correct.numpy()].any() and (dropped == 0 or "art-" in name)
        assert score.n == 25 - dropped and score.mean == pytest.approx(np.nanmean(score.per_example))
        assert score.stderr == pytest.approx(np.nanstd(score.per_example, ddof=1) / score.n**0.5)
        failed = int((score.per_example == 1).sum())
        assert score.counts == {"wrong": 5, "dropped": dropped, "failed": failed}


def test_only_the_first_so_many_are_measured(tens):
    net, split, correct = tens
    first = scores(net, split, settings=replace(BRIEF, images=7))
    index = correct.nonzero().squeeze(1)[:7]
    alone = scores(net, split.at(index))
    for name, score in first.items():
        assert score.n == 7 - score.counts["dropped"] and score.counts["wrong"] == 3  # among those that were looked at
        assert np.isnan(np.delete(score.per_example, index)).all()
        np.testing.assert_allclose(score.per_example[index], alone[name].per_example, atol=1e-6)


def test_what_is_dropped_and_where_an_attack_failed_is_counted(quick):
    net, x = fragile()
    split = Split((x * 255).round().byte(), torch.tensor([0, 0, 0, 1, 0, 0, 0, 1]))
    found = scores(net, split, settings=replace(BRIEF, step=0.0071))
    art, rar = found["val/art-k"], found["val/rar-k"]
    assert art.n == 3 and art.counts == {"wrong": 2, "dropped": 3, "failed": 0}
    assert np.isnan(art.per_example).tolist() == [True] * 4 + [False] * 3 + [True]
    assert rar.n == 6 and rar.counts == {"wrong": 2, "dropped": 0, "failed": 3}
    assert (rar.per_example[:3] == 1).all() and (rar.per_example[4:7] < 1).all()


def test_where_nothing_is_classified_correctly_there_is_no_number(tens):
    net, split, correct = tens
    index = (~correct).nonzero().squeeze(1)
    both = Measure(suites=("attribution", "attribution-legacy"))
    found = scores(net, split.at(index), both, replace(BRIEF, maps=tuple(attackable())))
    assert len(found) > 80
    for score in found.values():
        assert np.isnan(score.mean) and np.isnan(score.stderr) and score.n == 0
        assert score.per_example.shape == (5,) and np.isnan(score.per_example).all()
        assert score.counts["wrong"] == 5
        assert evaluator.format_score(score)


def test_a_suite_moves_no_other_number(tens):
    net, split, _ = tens
    names = ("standard", "attribution", "attribution-legacy")
    together = scores(net, split, Measure(suites=names, steps=2))
    torch.rand(9)
    for name in names:
        alone = scores(net, split, Measure(suites=(name,), steps=2))
        assert alone and set(alone) < set(together)
        for key, score in alone.items():
            assert np.array_equal(score.per_example, together[key].per_example, equal_nan=True), key
    more_maps = scores(net, split, Measure(suites=("attribution",)), replace(BRIEF, maps=("gradient",)))
    assert np.array_equal(
        more_maps["val/completeness"].per_example, together["val/completeness"].per_example, equal_nan=True
    )


def test_a_seed_is_a_number_and_another_seed_another(tens):
    net, split, _ = tens
    one, again, other = (scores(net, split, seed=seed)["val/art-k"] for seed in (0, 0, 1))
    assert np.array_equal(one.per_example, again.per_example, equal_nan=True)
    assert one.mean != other.mean and one.mean == pytest.approx(other.mean, abs=0.05)


def test_measuring_leaves_the_net_and_the_generator_alone(tens):
    net, split, _ = tens
    before = {k: v.clone() for k, v in net.state_dict().items()}
    torch.manual_seed(4)
    expected = torch.rand(3)
    torch.manual_seed(4)
    net.train()
    scores(net, split.head(8), Measure(suites=("attribution", "attribution-legacy")), replace(BRIEF, steps=1))
    assert net.training
    net.eval()
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())


def test_a_suite_that_is_not_known_is_refused():
    with pytest.raises(UserError) as error:
        suites.combined(("standard", "atribution"))
    assert str(error.value) == "suite 'atribution' is not known; did you mean 'attribution'?"
