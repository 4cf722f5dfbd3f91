"""What an attack on attributions promises of what it finds, leaves behind and refuses: a plain loop as the oracle."""

import dataclasses
import itertools
import weakref

import attack_examples
import pytest
import torch
from attack_examples import CRITERIA, MAPS, OBJECTIVES, TwoLayers, convolutional, run
from oracles import fragile
from torch import nn
from torch.nn import functional as F

from harness.attacks import attribution
from harness.errors import UserError
from harness.explain import input_gradients
from harness.explain import similarity as explain_similarity
from harness.explain.integrated_gradients import IntegratedGradients
from harness.explain.maps import GradCAMPlusPlus, Gradient
from harness.models.freezing import frozen
from harness.models.relus import softened

net, images, learnt = attack_examples.net, attack_examples.images, attack_examples.learnt

# What is found


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


# What it leaves behind


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
