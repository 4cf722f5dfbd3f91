"""All attribution maps, one family: trained on, shown, attacked and scored. `MAPS` is the table of their names.

    map = for_training("smoothgrad")       with the constants of maps to train on
    map = attackable()["smoothgrad"]()     with those of attacks
    map.detached(net, x, y)                of the evaluated net, without a graph
    map(net, x, y)                         differentiable, if x requires gradients: see `harness.explain.base.Map`

A new map is a class here, or in a module of its own, and a line in `MAPS`. It declares what differs from `Map`.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.errors import UserError, one_line, unknown_name
from harness.explain import captum_maps, input_gradients
from harness.explain.base import Map
from harness.explain.captum_maps import GuidedBackpropModules
from harness.explain.input_gradients import gradient, true_logit
from harness.explain.integrated_gradients import IntegratedGradients
from harness.models.feature_layer import WithFeatureLayer
from harness.models.freezing import frozen
from harness.models.nets import Net
from harness.models.relus import Softened, rectified_by
from harness.plugins import Thing
from harness.plugins.registry import Registry

# Gradients


@dataclass(frozen=True)
class Gradient(Map):
    """Gradient of the logit of class y (Simonyan et al., 2014)."""

    differentiable = True

    def __call__(self, net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return input_gradients.of(lambda at: true_logit(net(at), y), x)


@dataclass(frozen=True)
class SmoothGrad(Map):
    """SmoothGrad: mean gradient of the logit over n noisy copies, not clipped to [0, 1] (Smilkov et al., 2017).

    sigma: standard deviation of the Gaussian noise, in units of each image's value range. noise: `fixed` draws, shared
    by all images, make the map a deterministic function of the image; `fresh` ones are of the global generator, and
    the copies are passed one after another.
    """

    n: int = 10
    sigma: float = 0.15
    noise: Literal["fixed", "fresh"] = field(default="fixed", repr=False)  # not in descriptions of scores

    differentiable = True

    @property
    def random(self) -> bool:
        return self.noise == "fresh"

    @property
    def passes(self) -> int:
        return self.n

    def __call__(self, net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        flat = x.detach().flatten(1)
        scale = self.sigma * (flat.amax(1) - flat.amin(1)).view(-1, 1, 1, 1)
        if self.noise == "fresh":
            gradients = (Gradient()(net, x + scale * torch.randn_like(x), y) for _ in range(self.n))
            return sum(gradients, torch.zeros_like(x)) / self.n  # in the memory format of x
        draws = torch.randn(self.n, 1, *x.shape[1:], generator=torch.Generator().manual_seed(0)).to(x)
        noisy = (x + scale * draws).flatten(0, 1).contiguous(memory_format=torch.channels_last)
        return Gradient()(net, noisy, y.repeat(self.n)).unflatten(0, (self.n, len(x))).mean(0)


class _GuidedReLU(torch.autograd.Function):
    """Guided ReLU: its backward pass clamps the gradient at 0, where the input was positive."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        out = x.clamp_min(0)
        ctx.save_for_backward(out)
        return out

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (out,) = ctx.saved_tensors
        return g.clamp_min(0) * (out > 0)


@dataclass(frozen=True)
class GuidedBackprop(Map):
    """Guided backpropagation (Springenberg et al., 2015) through every ReLU, module or function.

    Not differentiable: a softplus surrogate has no ReLU to guide.
    """

    def __call__(self, net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        with rectified_by(_GuidedReLU.apply):
            return Gradient()(net, x.detach(), y)


# Class activation maps: of a `Net`, or a net with a named feature layer, or the smooth surrogate of one


@dataclass(frozen=True)
class CAM(Map):
    """Class activation map (Zhou et al., 2016): last feature maps weighted by the head's weights of class y.

    Its mean before upsampling is the logit without the bias. For a net with a named feature layer the weights are the
    sum over positions of the logit's gradient, which equals the head's weights if the layer is followed by global
    average pooling and a linear head.
    """

    per_channel = False
    of_features = differentiable = True

    def __call__(self, net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        at = _activations(net, x, y)
        return _enlarged((at.weight * at.features).sum(1, keepdim=True), x)


@dataclass(frozen=True)
class GradCAM(Map):
    """Grad-CAM (Selvaraju et al., 2017) at the last feature maps.

    It is the positive part of `CAM` divided by the number of positions. With global average pooling the gradient is the
    same at every position, the head's weight over that number, and needs no backward pass.

    Not differentiable: where no value is positive, its derivative is 0, and an attack would stand still.
    """

    signed = per_channel = False
    of_features = True

    def __call__(self, net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        at = _activations(net, x, y)
        positions = at.features.shape[2:].numel()
        return _enlarged((at.weight / positions * at.features).sum(1, keepdim=True).relu(), x)


@dataclass(frozen=True)
class GradCAMPlusPlus(Map):
    """Grad-CAM++ (Chattopadhay et al., 2018) at the last feature maps, as released with SAT.

    With g the gradient of the logit S: alpha = g^2 / (2 g^2 + sum(A g^3) + 1e-7), and the map is the sum of the feature
    maps A weighted by sum(alpha relu(exp(S) g)). It is non-negative where A is. The published 1e-7 is not negligible
    beside g^2 on large feature maps. The factor exp(S) is omitted: it is one positive number per image, which every
    binarisation cancels, but overflows in float32 at S = 89.
    """

    signed = per_channel = False
    of_features = differentiable = True

    def __call__(self, net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        at = _activations(net, x, y)
        features, g = at.features, at.gradient
        alpha = g**2 / (2 * g**2 + features.sum((2, 3), keepdim=True) * g**3 + 1e-7)
        each = features.shape[2:].numel() // g.shape[2:].numel()  # how many positions a value of g is the gradient at
        weight = (each * alpha * g.relu()).sum((2, 3), keepdim=True)
        return _enlarged((weight * features).sum(1, keepdim=True), x)


@dataclass(frozen=True)
class GuidedGradCAMPlusPlus(Map):
    """Guided Grad-CAM++: Grad-CAM++ where guided backpropagation is positive, -1 where negative, as released with SAT.

    With g the sign of guided backpropagation and m the Grad-CAM++ map rescaled to [0, 1]: ((g + 1) (m + 1) - 2) / 2,
    between -0.5 and 0 where g is 0.
    """

    of_features = True

    def __call__(self, net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        g = GuidedBackprop()(net, x, y).sign()
        m = minmax(GradCAMPlusPlus()(net, x, y))
        return ((g + 1) * (m + 1) - 2) / 2


@dataclass(frozen=True)
class _Activations:
    """Feature maps (B, D, h, w) and the gradient of the logit of y there.

    gradient: (B, D, h, w), or (B, D, 1, 1) if it is the same everywhere. weight: its sum over positions, (B, D, 1, 1).
    """

    features: Tensor
    gradient: Tensor
    weight: Tensor


def _activations(net: nn.Module, x: Tensor, y: Tensor) -> _Activations:
    explained = net.model if isinstance(net, Softened) else net
    if isinstance(explained, Net):
        features = net.maps(x) if isinstance(net, Softened) else explained.maps(x)
        weight = explained.head.weight.detach()[y][:, :, None, None]
        return _Activations(features, weight / features.shape[2:].numel(), weight)
    if isinstance(explained, WithFeatureLayer):
        named = net if isinstance(net, Softened) else explained
        features, logits = named.features_and_logits(x)
        with torch.enable_grad():
            g = gradient(true_logit(logits, y), features, graph=x.requires_grad)
        return _Activations(features if x.requires_grad else features.detach(), g, g.sum((2, 3), keepdim=True))
    raise UserError(
        "class activation maps need a Net of harness.models, or the name of the last feature layer (--features), not"
        f" {type(explained).__name__} alone"
    )


def _enlarged(m: Tensor, x: Tensor) -> Tensor:
    """Upsample a map (B, 1, h, w) bilinearly to the height and width of x."""
    if m.shape[1:].numel() == 1:  # interpolation would round, and binarising amplify the rounding errors
        return m.expand(-1, -1, *x.shape[-2:]).contiguous()
    return F.interpolate(m, x.shape[-2:], mode="bilinear", align_corners=False)


def minmax(s: Tensor) -> Tensor:
    """Rescale each map (B, ...) to [0, 1], over channels and pixels; a constant map becomes 0."""
    flat = s.flatten(1)
    minimum, range_ = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True) - flat.amin(1, keepdim=True)
    return ((flat - minimum) / torch.where(range_ > 0, range_, 1)).view_as(s)


# Names

_OWN: dict[str, type[Map]] = {
    "gradient": Gradient,
    "guided_backprop": GuidedBackprop,
    "guided_backprop_modules": GuidedBackpropModules,
    "smoothgrad": SmoothGrad,
    "integrated_gradients": IntegratedGradients,
    "cam": CAM,
    "gradcam": GradCAM,
    "gradcam_pp": GradCAMPlusPlus,
    "guided_gradcam_pp": GuidedGradCAMPlusPlus,
}


def _check(thing: Thing) -> type[Map]:
    """A plug-in's map: a dataclass that makes a `Map` by its defaults."""
    if not isinstance(thing, type) or not issubclass(thing, Map):
        raise UserError("a map is a subclass of harness.explain.base.Map, a frozen dataclass")
    try:
        thing()
    except TypeError as error:
        raise UserError(f"its constants need defaults, and it a __call__: {one_line(error)}") from None
    return thing


MAPS: Registry[type[Map]] = Registry("saliency", "maps", _OWN, _check)


def trapezoids(points: int, chunk: int) -> IntegratedGradients:
    """Integrated gradients to train on or to show: `points` intervals, at most `chunk` images per pass."""
    return IntegratedGradients(points, "trapezoid", chunk=chunk, spacing="linspace")


def for_training(name: str) -> Map:
    """The map `name` of `MAPS` with the constants of maps to train on, or for "captum.X" captum's attribution X.

    Raises `UserError` for any other name, with a suggestion. captum is imported only for its own names.
    """
    if name.startswith(captum_maps.PREFIX):
        return captum_maps.find(name)
    kind = MAPS.find(name)
    differing = {"smoothgrad": SmoothGrad(noise="fresh"), "integrated_gradients": trapezoids(100, chunk=128)}
    return differing.get(name) or kind()


def attackable() -> dict[str, type[Map]]:
    """The maps that can be attacked, by name; their defaults are the constants of attacks."""
    return {name: kind for name, kind in MAPS.items() if kind.differentiable}


def explained_class(net: nn.Module, x: Tensor, y: Tensor, target: Literal["label", "predicted"]) -> Tensor:
    """The class (B,) to explain: the label, or the prediction in evaluation mode. Raises `UserError` if unknown."""
    if target == "label":
        return y
    if target != "predicted":
        raise unknown_name("target", target, ("label", "predicted"))
    with frozen(net), torch.no_grad():
        return net(x).argmax(1)
