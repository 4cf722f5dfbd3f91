"""What an attack on attributions can do, and what not: against random signs, and on a net that nothing moves."""

import attack_examples
import pytest
import torch
from attack_examples import OBJECTIVES, run
from oracles import Linear

from harness.attacks import attribution
from harness.explain import similarity as explain_similarity
from harness.explain.input_gradients import gradient
from harness.explain.integrated_gradients import IntegratedGradients
from harness.explain.maps import Gradient, attackable
from harness.models.freezing import frozen
from harness.models.relus import softened

learnt = attack_examples.learnt


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


@pytest.mark.parametrize("start", ["uniform", "none"])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_no_attack_moves_the_gradient_of_a_linear_net(name, start):
    net, x = Linear(72, torch.float64), torch.rand(4, 2, 6, 6, dtype=torch.float64)
    with frozen(net):
        found = run(net, x, net(x).argmax(1), objective=OBJECTIVES[name], start=start)
    assert all((f.similarity == 1).all() and f.kept.any() for f in found.values())
