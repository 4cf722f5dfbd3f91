"""Nets and images on which maps are checked: lived-in nets, twins that differ in their ReLUs, a planted square."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import cache
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.errors import required
from harness.explain.base import Map
from harness.explain.maps import for_training
from harness.models import nets as models_nets

NETS = {
    "small on grey": ("small", 1, (8, 12)),
    "grey": ("resnet10", 1, (8, 8)),
    "rgb": ("resnet10", 3, (32, 32)),
}
QUICK = {"points": 3, "n": 2}  # fewer passes, for maps with such constants
Relu = nn.Module | Callable[[Tensor], Tensor]
_Model = TypeVar("_Model", bound=nn.Module)


def quick(explain: Map, **constants: float) -> Map:
    """The map with fewer passes, and these constants, of those that it has."""
    if not dataclasses.is_dataclass(explain):
        return explain
    fields = {field.name for field in dataclasses.fields(explain)}
    return dataclasses.replace(explain, **{k: v for k, v in {**QUICK, **constants}.items() if k in fields})


def explain(name: str, net: nn.Module, x: Tensor, y: Tensor, **constants: float) -> Tensor:
    """The map of that name, as it is trained on."""
    return quick(for_training(name), **constants).detached(net, x, y)


def with_trained_norms(net: _Model) -> _Model:
    """The net with normalisation whose statistics, weights and biases are not those of a fresh one."""
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.get_buffer("running_mean").normal_(0, 0.2)
            m.get_buffer("running_var").uniform_(0.5, 1.5)
            nn.init.uniform_(m.weight, 0.5, 1.5)
            nn.init.normal_(m.bias, 0, 0.2)
    return net


def lived_in(net: models_nets.Net, seed: int = 0) -> models_nets.Net:
    """The net with the statistics and biases of one that has been trained, in evaluation mode."""
    torch.manual_seed(seed)
    with_trained_norms(net)
    nn.init.normal_(net.head.bias)
    return net.normalised_by(torch.tensor(0.3), torch.tensor(0.5)).eval()


@cache
def example(on: str) -> tuple[models_nets.Net, Tensor, Tensor]:
    """(net, x, y) of `NETS`, two images, in float32; the activation maps of y have both signs."""
    architecture, channels, size = NETS[on]
    torch.manual_seed(0)
    net = lived_in(models_nets.build(architecture, channels, 10))
    x = torch.rand(2, channels, *size)
    with torch.no_grad():
        logits = net(x) - net.head.bias
    return net, x, logits.where(logits > 0, torch.inf).argmin(1)


class Chain(nn.Module):
    """Convolutions, each followed by one of `relus`: functions or modules, which may share their weights."""

    def __init__(self, layers: nn.ModuleList, relus: Sequence[Relu]):
        super().__init__()
        self.layers = layers
        modules = [relu for relu in relus if isinstance(relu, nn.Module)]
        self.relus = nn.ModuleList(modules) if modules else relus

    def forward(self, x: Tensor) -> Tensor:
        for layer, relu in zip(self.layers, self.relus, strict=True):
            x = relu(layer(x))
        return x


def twins(*relus: Sequence[Relu], seed: int = 0) -> list[models_nets.Net]:
    """Nets on 2x6x6 images in float64 with the same weights, each with its own kind of ReLU."""
    torch.manual_seed(seed)
    layers = nn.ModuleList([nn.Conv2d(2, 5, 3, padding=1), nn.Conv2d(5, 6, 3, padding=1), nn.Conv2d(6, 6, 1)])
    made = [models_nets.Net(Chain(layers, r), 6, 4, 2).double() for r in relus]
    for net in made:
        net.head = made[0].head
    nn.init.normal_(made[0].head.bias)
    return made


class Linear(nn.Module):
    """Logits linear in the pixels, by a layer that torch knows how to initialise."""

    def __init__(self, pixels: int, classes: int):
        super().__init__()
        self.head = nn.Linear(pixels, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.flatten(1))


def linear_model() -> tuple[Linear, Tensor, Tensor, Tensor]:
    """The model, images, classes, and each class's weights as an image."""
    torch.manual_seed(1)
    model, x = Linear(18, 4).double(), torch.rand(5, 2, 3, 3, dtype=torch.float64)
    y = torch.tensor([0, 1, 2, 3, 0])
    return model, x, y, model.head.weight.detach()[y].view_as(x)


def detector() -> tuple[models_nets.Net, Tensor, Tensor]:
    """A net whose class 1 is a bright square and class 0 its opposite; images; where their squares lie."""
    conv = nn.Conv2d(1, 1, 3, padding=1)
    nn.init.ones_(conv.weight)
    nn.init.constant_(required(conv.bias, "bias"), -6)
    net = models_nets.Net(Chain(nn.ModuleList([conv]), [F.relu]), 1, 2, 1)
    net.head.weight.data = torch.tensor([[-1.0], [1.0]])
    torch.manual_seed(0)
    x, inside = 0.1 * torch.rand(4, 1, 12, 12), torch.zeros(4, 1, 12, 12, dtype=torch.bool)
    for i, (top, left) in enumerate(((1, 1), (6, 2), (3, 6), (6, 6))):
        inside[i, 0, top : top + 5, left : left + 5] = True
    x[inside] = 1
    return net, x, inside
