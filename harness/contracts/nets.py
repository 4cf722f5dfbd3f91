"""What every net promises."""

import copy
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from harness.contracts.promise import Promise, require, require_close
from harness.models.nets import Net, build
from harness.models.relus import rectified_by

SIDES = {"resnet50": 32, "vgg_gap": 16}  # the least that their poolings leave something of
CLASSES = 7


class ReLUCalls(TorchDispatchMode):
    """Counts the ReLUs that reach the backend, whatever they are called by."""

    calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += func.overloadpacket in (torch.ops.aten.relu, torch.ops.aten.relu_)
        return func(*args, **(kwargs or {}))


def example(name: str, channels: int = 1) -> tuple[Net, Tensor]:
    """The net in evaluation mode, and two images."""
    torch.manual_seed(0)
    net = build(name, channels, CLASSES)
    side = SIDES.get(name, 32)
    return net.eval(), torch.rand(2, channels, side, side)


def it_gives_finite_logits_of_any_number_of_images_and_channels(name: str) -> None:
    for channels in (1, 3):
        net, x = example(name, channels)
        with torch.no_grad():
            out = net(x)
            good = out.shape == (2, CLASSES) and out.dtype == x.dtype and bool(out.isfinite().all())
            require(good, f"{name}: bad logits, {tuple(out.shape)} for 2 images of {CLASSES} classes")
            require_close(net(x[:1]), out[:1], f"{name}: an image's logits depend on the others", atol=1e-4)


def its_head_is_behind_a_global_average(name: str) -> None:
    net, x = example(name)
    with torch.no_grad():
        features = net.maps(x)
        shape = tuple(features.shape)
        good = shape[:2] == (2, net.head.in_features) and len(shape) == 4
        require(good, f"{name}: features are {shape}, not (B, D, h, w)")
        says = f"{name}: end the features with a ReLU; Grad-CAM++ takes them as non-negative"
        require(bool((features >= 0).all()), says)
        require_close(net.head(features.mean((2, 3))), net(x), f"{name}: its head is not behind a global average")


def its_relus_can_be_replaced(name: str) -> None:
    net, x = example(name)
    found: list[int] = []

    def rectified(t: Tensor) -> Tensor:
        found.append(1)
        return t.clamp_min(0)

    with torch.no_grad():
        with rectified_by(rectified):
            net(x)
        with ReLUCalls() as relus:
            net(x)
    require(len(found) == relus.calls, f"{name}: has ReLUs that cannot be replaced")


def its_normalisation_is_inside(name: str) -> None:
    net, x = example(name)
    with torch.no_grad():
        out = net(x)
        inside = net.normalised_by(torch.tensor([0.4]), torch.tensor([0.2]))(x)
        net.normalised_by(torch.zeros(1), torch.ones(1))
        says = f"{name}: does not normalise its input; give its features to Net"
        require_close(inside, net((x - 0.4) / 0.2), says, rtol=1e-4, atol=1e-5)
        require(not torch.allclose(inside, out), says)
    require({"mean", "std"} <= net.state_dict().keys(), says)


def its_weights_all_learn(name: str) -> None:
    net, x = example(name)
    require(all(p.requires_grad for p in net.parameters()), f"{name}: has weights that do not learn")
    net(x).sum().backward()
    still = [weight for weight, p in net.named_parameters() if p.grad is None]
    require(not still, f"{name}: {still[0] if still else ''} is not used")


def its_stages_are_modules_of_its_features(name: str) -> None:
    net, _ = example(name)
    require(bool(net.inner_stages), f"{name}: pass the ends of its stages to Net(..., stages=...)")
    inner = {*net.inner_stages} <= {*net.features.modules()}
    require(inner, f"{name}: stages must be modules within its features")
    twin = copy.deepcopy(net)
    own = {*twin.inner_stages} <= {*twin.features.modules()} - {*net.modules()}
    require(own, f"{name}: a copy of it has stages of the original")


CONTRACT: tuple[Promise, ...] = (
    it_gives_finite_logits_of_any_number_of_images_and_channels,
    its_head_is_behind_a_global_average,
    its_relus_can_be_replaced,
    its_normalisation_is_inside,
    its_weights_all_learn,
    its_stages_are_modules_of_its_features,
)
