"""Nets, images, maps and objectives for the tests of attribution attacks and of the maps that they attack.

A module of tests has a fixture of these as its own by an assignment such as `net = attack_examples.net`.
"""

from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.attacks import attribution
from harness.attacks.attribution import attack
from harness.contracts.map_examples import quick
from harness.explain import similarity as explain_similarity
from harness.explain.integrated_gradients import IntegratedGradients
from harness.explain.maps import Gradient, attackable
from harness.models import nets
from harness.models.freezing import frozen

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
