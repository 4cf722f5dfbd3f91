"""Saliency maps: gradient, guided backpropagation, SmoothGrad, integrated gradients, CAM, Grad-CAM(++), captum.

    saliency(model, x, y, *, ...) -> map     x (B, C, H, W) in [0, 1], y (B,) the class to explain

The map is (B, C, H, W), or (B, 1, H, W) if computed from feature maps; detached; first order. Positive values are
evidence *for* class y, so `x - eps * sign(map)` lowers it. Every function explains the net in evaluation mode and
restores its mode. Names with the prefix "captum." are captum's attributions; see `find`.
"""

import contextlib
import functools
import inspect
import warnings
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.errors import UserError, unknown_name
from harness.explain import input_gradients
from harness.explain.input_gradients import true_logit
from harness.models.freezing import frozen
from harness.models.nets import Net
from harness.models.relus import rectified_by

Saliency = Callable[..., Tensor]


def gradient(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Gradient of the logit of class y (Simonyan et al., 2014)."""
    with frozen(model):
        return _gradient(model, x, y)


def _gradient(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return input_gradients.of(lambda at: true_logit(model(at), y), x.detach())


def _leaf(x: Tensor) -> Tensor:
    return x.detach().requires_grad_(True)


class _Guided(torch.autograd.Function):
    """Guided ReLU: its backward pass clamps the gradient at 0, where the input was positive."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        out = x.clamp_min(0)
        ctx.save_for_backward(out)
        return out

    @staticmethod
    def backward(ctx, g: Tensor) -> Tensor:
        (out,) = ctx.saved_tensors
        return g.clamp_min(0) * (out > 0)


def guided_backprop(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Guided backpropagation (Springenberg et al., 2015) through every ReLU, module or function."""
    with frozen(model), rectified_by(_Guided.apply):
        return _gradient(model, x, y)


def guided_backprop_modules(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Guided backpropagation through `nn.ReLU` modules only, as in the code released with SAT.

    For a net that calls `F.relu`, as the ResNets of both codes do, this is the plain gradient. Raises `UserError`
    without captum.
    """
    with frozen(model), _quiet_hooks():
        return _captum().GuidedBackprop(model).attribute(_leaf(x), target=y).detach()


def smoothgrad(model: nn.Module, x: Tensor, y: Tensor, *, n: int = 10, sigma: float = 0.15) -> Tensor:
    """SmoothGrad: mean gradient over n noisy copies (Smilkov et al., 2017).

    Gaussian noise of standard deviation sigma * (max - min) of each image, from the global generator; not clipped to
    [0, 1].
    """
    x = x.detach()
    scale = sigma * (x.flatten(1).amax(1) - x.flatten(1).amin(1)).view(-1, 1, 1, 1)
    total = torch.zeros_like(x)
    with frozen(model):
        for _ in range(n):
            total += _gradient(model, x + scale * torch.randn_like(x), y)
    return total / n


def integrated_gradients(model: nn.Module, x: Tensor, y: Tensor, *, points: int = 100, chunk: int = 128) -> Tensor:
    """Integrated gradients: x times the mean gradient of the logit from black to x (Sundararajan et al., 2017).

    Trapezoidal rule with `points` intervals: points + 1 gradients per image, at most `chunk` images per pass. The map
    sums to logit(x) - logit(0), up to the rule's error.
    """
    x = x.detach()
    nodes = torch.linspace(0, 1, points + 1, device=x.device, dtype=x.dtype)
    weights = torch.full_like(nodes, 1 / points)
    weights[[0, -1]] /= 2
    maps = []
    with frozen(model):
        for part, label in zip(x.split(chunk), y.split(chunk), strict=True):
            per_pass = max(1, chunk // len(part))
            mean = torch.zeros_like(part)
            for node, weight in zip(nodes.split(per_pass), weights.split(per_pass), strict=True):
                interpolated = (node.view(-1, 1, 1, 1, 1) * part).flatten(0, 1)
                g = _gradient(model, interpolated, label.repeat(len(node))).unflatten(0, (len(node), -1))
                mean += (weight.view(-1, 1, 1, 1, 1) * g).sum(0)
            maps.append(part * mean)
    return torch.cat(maps)


def cam(model: Net, x: Tensor, y: Tensor) -> Tensor:
    """Class activation map (Zhou et al., 2016): last feature maps weighted by the head's weights of class y.

    (B, 1, H, W), signed; its mean before upsampling is the logit without the bias. Raises `UserError` unless the model
    is a `Net`, as do all CAM variants.
    """
    features, weight = _features_and_weight(model, x, y)
    return enlarged((weight * features).sum(1, keepdim=True), x)


def gradcam(model: Net, x: Tensor, y: Tensor) -> Tensor:
    """Grad-CAM (Selvaraju et al., 2017) at the last feature maps, (B, 1, H, W), non-negative.

    With global average pooling the gradient is the same at every position: the head's weight over the number of
    positions. So this is the positive part of `cam` divided by that number, without a backward pass.
    """
    features, weight = _features_and_weight(model, x, y)
    positions = features[0, 0].numel()
    return enlarged((weight / positions * features).sum(1, keepdim=True).relu(), x)


def gradcam_pp(model: Net, x: Tensor, y: Tensor) -> Tensor:
    """Grad-CAM++ (Chattopadhay et al., 2018) at the last feature maps, (B, 1, H, W), as released with SAT.

    With g the gradient of the logit S: alpha = g^2 / (2 g^2 + sum(A g^3) + 1e-7), and the map is the sum of the feature
    maps A weighted by sum(alpha relu(exp(S) g)). It is non-negative where A is. The published 1e-7 is not negligible
    beside g^2 on large feature maps. The factor exp(S) is omitted: it is one positive number per image, which every
    binarisation cancels, but overflows in float32 at S = 89.
    """
    return enlarged(plus_plus(*_features_and_weight(model, x, y)), x)


def plus_plus(features: Tensor, weight: Tensor) -> Tensor:
    """Grad-CAM++ (B, 1, h, w) of feature maps (B, D, h, w) before global pooling and head weights (B, D, 1, 1)."""
    positions = features.shape[2:].numel()
    g = weight / positions  # the same at every position, by global average pooling
    alpha = g**2 / (2 * g**2 + features.sum((2, 3), keepdim=True) * g**3 + 1e-7)
    return (positions * alpha * g.relu() * features).sum(1, keepdim=True)


def minmax(s: Tensor) -> Tensor:
    """Rescale each map to [0, 1], over channels and pixels; a constant map becomes 0."""
    flat = s.flatten(1)
    minimum, range_ = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True) - flat.amin(1, keepdim=True)
    return ((flat - minimum) / torch.where(range_ > 0, range_, 1)).view_as(s)


def guided_gradcam_pp(model: Net, x: Tensor, y: Tensor) -> Tensor:
    """Guided Grad-CAM++: Grad-CAM++ where guided backpropagation is positive, -1 where negative, as released with SAT.

    With g the sign of guided backpropagation and m the Grad-CAM++ map rescaled to [0, 1]: ((g + 1) (m + 1) - 2) / 2,
    between -0.5 and 0 where g is 0.
    """
    g = guided_backprop(model, x, y).sign()
    m = minmax(gradcam_pp(model, x, y))
    return ((g + 1) * (m + 1) - 2) / 2


def _features_and_weight(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The last feature maps (B, D, h, w), and the head's weights of class y (B, D, 1, 1)."""
    if not isinstance(model, Net):
        raise UserError(f"class activation maps need a Net of harness.models, not {type(model).__name__}")
    with frozen(model), torch.no_grad():
        return model.maps(x), model.head.weight.detach()[y][:, :, None, None]


def enlarged(m: Tensor, x: Tensor) -> Tensor:
    """Upsample a map (B, 1, h, w) bilinearly to the height and width of x."""
    if m.shape[1:].numel() == 1:  # interpolation would round, and binarising amplify the rounding errors
        return m.expand(-1, -1, *x.shape[-2:]).contiguous()
    return F.interpolate(m, x.shape[-2:], mode="bilinear", align_corners=False)


def explained(model: nn.Module, x: Tensor, y: Tensor, target: Literal["label", "predicted"]) -> Tensor:
    """The class (B,) to explain: the label, or the prediction in evaluation mode. Raises `UserError` if unknown."""
    if target == "label":
        return y
    if target != "predicted":
        raise unknown_name("target", target, ("label", "predicted"))
    with frozen(model), torch.no_grad():
        return model(x).argmax(1)


class _ReLUsAsModules(nn.Module):
    """`model` with a separate `nn.ReLU` module per ReLU call, for captum's hooks.

    Captum silently ignores functional ReLUs, and fails on a module called twice.
    """

    def __init__(self, model: nn.Module, x: Tensor):
        super().__init__()
        self.unregistered = (model,)  # in a tuple, so that captum finds each ReLU once, below
        leaves = [m for m in model.modules() if not list(m.children()) and not isinstance(m, nn.ReLU)]
        self.others, self.relus = nn.ModuleList(leaves), nn.ModuleList()
        with torch.no_grad(), rectified_by(lambda t: self.relus.append(nn.ReLU())[-1](t)):
            model(x[:1])

    def forward(self, x: Tensor) -> Tensor:
        relus = iter(self.relus)
        with rectified_by(lambda t: next(relus)(t)):
            return self.unregistered[0](x)


def _by_captum(attribution: type, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Map of a captum attribution with captum's defaults, of x's shape."""
    with frozen(model), _quiet_hooks():
        return attribution(_ReLUsAsModules(model, x)).attribute(_leaf(x), target=y).detach()


@contextlib.contextmanager
def _quiet_hooks() -> Iterator[None]:
    """Silence captum's warnings about setting and removing hooks."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Setting (forward, )?backward hooks", category=UserWarning)
        yield


def _captum() -> ModuleType:
    try:
        import captum.attr
    except ImportError as error:
        raise UserError(f"this saliency needs the package captum: {error}") from error
    return captum.attr


def find(name: str) -> Saliency:
    """Look up a saliency function by its name in `SALIENCY`, or "captum.X" for captum's attribution X.

    X must be gradient-based and need only x and y. captum is imported only for its own names. Raises `UserError` for
    any other name, with a suggestion.
    """
    if not name.startswith("captum."):
        if name not in SALIENCY:
            raise unknown_name("saliency", name, SALIENCY)
        return SALIENCY[name]
    attr = _captum()
    known = {f"captum.{n}" for n, c in vars(attr).items() if _takes_x_and_y(c, attr.GradientAttribution)}
    attribution = getattr(attr, name.removeprefix("captum."), None)
    if name in known:
        return functools.partial(_by_captum, attribution)
    if attribution is None:
        raise unknown_name("saliency", name, known)
    raise UserError(f"{name} does not work by gradients of x and y alone; these do: {', '.join(sorted(known))}")


def _takes_x_and_y(candidate: object, kind: type) -> bool:
    """Whether it is a subclass of `kind` that needs only the net to construct, and x and `target` to attribute."""
    if not inspect.isclass(candidate) or not issubclass(candidate, kind) or candidate is kind:
        return False
    if candidate.__name__ == "LRP":  # has rules for modules only: wrong for global average pooling and shortcuts
        return False
    signatures = [inspect.signature(f).parameters for f in (candidate.__init__, candidate.attribute)]
    other_parameters = [p for ps in signatures for p in list(ps.values())[2:]]
    return "target" in signatures[1] and all(
        p.default is not p.empty or p.kind is p.VAR_KEYWORD for p in other_parameters
    )


def signed(name: str) -> bool:
    """Whether the maps of this saliency have values of both signs."""
    return name not in UNSIGNED


SALIENCY: dict[str, Saliency] = {
    "gradient": gradient,
    "guided_backprop": guided_backprop,
    "guided_backprop_modules": guided_backprop_modules,
    "smoothgrad": smoothgrad,
    "integrated_gradients": integrated_gradients,
    "cam": cam,
    "gradcam": gradcam,
    "gradcam_pp": gradcam_pp,
    "guided_gradcam_pp": guided_gradcam_pp,
}
# Non-negative maps: 0 is their minimum, not the boundary between evidence for and against.
UNSIGNED = frozenset({"gradcam", "gradcam_pp", "captum.Saliency"})
