"""Saliency: what in the image speaks for the class.

    saliency(model, x, y, *, ...) -> map     x (B, C, H, W) in [0, 1], y (B,) the class explained

The map is (B, C, H, W), or (B, 1, H, W) where it comes from features; detached; first order. Positive means
evidence *for* class y, so `x - eps * sign(map)` weakens it. Every function explains the net in evaluation
mode and leaves it as it was. Names that begin with "captum." are taken from that package; see `find`.
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

from harness import gradients
from harness.attacks import frozen
from harness.errors import Mistake, unknown
from harness.gradients import true_logit
from harness.models import Net, rectified_by

Saliency = Callable[..., Tensor]


def gradient(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Gradient of the logit of class y (Simonyan et al., 2014)."""
    with frozen(model):
        return _gradient(model, x, y)


def _gradient(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return gradients.of(lambda at: true_logit(model(at), y), x.detach())


def _leaf(x: Tensor) -> Tensor:
    return x.detach().requires_grad_(True)


class _Guided(torch.autograd.Function):
    """ReLU that passes back only what is positive, where its input was positive."""

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

    A net that calls `F.relu`, as the ResNets here and there do, gets its plain gradient. Raises `Mistake`
    without captum.
    """
    with frozen(model), _quiet_hooks():
        return _captum().GuidedBackprop(model).attribute(_leaf(x), target=y).detach()


def smoothgrad(model: nn.Module, x: Tensor, y: Tensor, *, n: int = 10, sigma: float = 0.15) -> Tensor:
    """Mean gradient over n noisy copies (Smilkov et al., 2017).

    The noise is Gaussian, of standard deviation sigma * (max - min) of each image, from the global generator;
    it is not clipped to [0, 1].
    """
    x = x.detach()
    scale = sigma * (x.flatten(1).amax(1) - x.flatten(1).amin(1)).view(-1, 1, 1, 1)
    total = torch.zeros_like(x)
    with frozen(model):
        for _ in range(n):
            total += _gradient(model, x + scale * torch.randn_like(x), y)
    return total / n


def integrated_gradients(model: nn.Module, x: Tensor, y: Tensor, *, points: int = 100, chunk: int = 128) -> Tensor:
    """x times the mean gradient of the logit on the way from black to x (Sundararajan et al., 2017).

    The way is cut into `points` intervals and integrated by the trapezoidal rule, which takes points + 1
    gradients an image; they are computed at most `chunk` at a time. The map sums to logit(x) - logit(0), up
    to the rule's error.
    """
    x = x.detach()
    nodes = torch.linspace(0, 1, points + 1, device=x.device, dtype=x.dtype)
    weights = torch.full_like(nodes, 1 / points)
    weights[[0, -1]] /= 2
    maps = []
    with frozen(model):
        for part, label in zip(x.split(chunk), y.split(chunk), strict=True):
            at_once = max(1, chunk // len(part))
            mean = torch.zeros_like(part)
            for node, weight in zip(nodes.split(at_once), weights.split(at_once), strict=True):
                way = (node.view(-1, 1, 1, 1, 1) * part).flatten(0, 1)
                g = _gradient(model, way, label.repeat(len(node))).unflatten(0, (len(node), -1))
                mean += (weight.view(-1, 1, 1, 1, 1) * g).sum(0)
            maps.append(part * mean)
    return torch.cat(maps)


def cam(model: Net, x: Tensor, y: Tensor) -> Tensor:
    """Class activation map (Zhou et al., 2016): the last features, weighted by the head's weights of class y.

    (B, 1, H, W), of both signs; its mean, before it is enlarged, is the logit without the bias.
    """
    features, weight = _features_and_weight(model, x, y)
    return enlarged((weight * features).sum(1, keepdim=True), x)


def gradcam(model: Net, x: Tensor, y: Tensor) -> Tensor:
    """Grad-CAM (Selvaraju et al., 2017) at the last features, (B, 1, H, W), not negative.

    Behind a global average the gradient is the same at every place: the head's weight over the number of
    places. So this is the positive part of `cam`, divided by that number, and needs no backward pass.
    """
    features, weight = _features_and_weight(model, x, y)
    places = features[0, 0].numel()
    return enlarged((weight / places * features).sum(1, keepdim=True).relu(), x)


def gradcam_pp(model: Net, x: Tensor, y: Tensor) -> Tensor:
    """Grad-CAM++ (Chattopadhay et al., 2018) at the last features, (B, 1, H, W), as released with SAT.

    With g the gradient of the logit S: alpha = g^2 / (2 g^2 + sum(A g^3) + 1e-7), and the map is the sum of
    the features A weighted by sum(alpha relu(exp(S) g)). It is not negative where A is not. The 1e-7 is not
    small beside g^2 on large feature maps; it is kept. The factor exp(S) is left out: it is positive and one
    number per image, so that every way to binarise the map cancels it, but in float32 it overflows at S = 89.
    """
    return enlarged(plus_plus(*_features_and_weight(model, x, y)), x)


def plus_plus(features: Tensor, weight: Tensor) -> Tensor:
    """Grad-CAM++ of features (B, D, h, w) behind a global average and weights (B, D, 1, 1): (B, 1, h, w)."""
    places = features.shape[2:].numel()
    g = weight / places  # the same at every place, behind a global average
    alpha = g**2 / (2 * g**2 + features.sum((2, 3), keepdim=True) * g**3 + 1e-7)
    return (places * alpha * g.relu() * features).sum(1, keepdim=True)


def guided_gradcam_pp(model: Net, x: Tensor, y: Tensor) -> Tensor:
    """Grad-CAM++ where guided backpropagation is positive, -1 where it is negative, as released with SAT.

    With g its sign and m the map in [0, 1], ((g + 1) (m + 1) - 2) / 2: between -0.5 and 0 where g is 0.
    """
    g = guided_backprop(model, x, y).sign()
    m = _minmax(gradcam_pp(model, x, y))
    return ((g + 1) * (m + 1) - 2) / 2


def _features_and_weight(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The last features (B, D, h, w), and the head's weights of class y (B, D, 1, 1)."""
    if not isinstance(model, Net):
        raise Mistake(f"class activation maps need a Net of harness.models, not {type(model).__name__}")
    with frozen(model), torch.no_grad():
        return model.maps(x), model.head.weight.detach()[y][:, :, None, None]


def enlarged(m: Tensor, x: Tensor) -> Tensor:
    """A map (B, 1, h, w) of features, brought to the height and width of x."""
    if m.shape[1:].numel() == 1:  # interpolation would round, and binarising make a map of the rounding errors
        return m.expand(-1, -1, *x.shape[-2:]).contiguous()
    return F.interpolate(m, x.shape[-2:], mode="bilinear", align_corners=False)


def explained(model: nn.Module, x: Tensor, y: Tensor, target: Literal["label", "predicted"]) -> Tensor:
    """The class (B,) that is explained: the label, or what the net predicts in evaluation mode."""
    if target == "label":
        return y
    if target != "predicted":
        raise unknown("target", target, ("label", "predicted"))
    with frozen(model), torch.no_grad():
        return model(x).argmax(1)


def binarise(
    s: Tensor,
    how: Literal["sign", "median", "quantile", "minmax", "none"],
    *,
    signed: bool = True,
    quantile: float = 0.5,
) -> Tensor:
    """A map as the m of a saliency step, each image by itself, over all its channels and pixels.

    `sign`: in {-1, 0, 1}, 0 where the map says nothing. Where a method's maps have no sign (see `signed`) every
    value would be +1, so it is `median` there. `median`, `quantile`: +1 from that value upwards, else -1. `minmax`:
    stretched to [0, 1], the released code's way. `none`: as it is, cut to [-1, 1], for maps that lie there by
    themselves. A constant map says nothing: all but `sign` and `none` make it 0.
    """
    if how == "sign" and signed:
        return s.sign()
    if how == "none":
        return s.clamp(-1, 1)
    if how == "minmax":
        return _minmax(s)
    if how in ("sign", "median"):
        quantile = 0.5
    elif how != "quantile":
        raise unknown("binarise", how, ("sign", "median", "quantile", "minmax", "none"))
    if not 0 <= quantile <= 1:
        raise Mistake(f"quantile must lie in [0, 1], not {quantile!r}")
    flat = s.flatten(1)
    least = flat.amin(1, keepdim=True)
    # By rank, as torch.median has it: torch.quantile refuses more than 2^24 values.
    threshold = flat.kthvalue(1 + int(quantile * (flat.shape[1] - 1)), dim=1, keepdim=True).values
    # A rectified map may be 0 on most of the image: "from the threshold upwards" would then be all of it.
    above = torch.where(threshold > least, flat >= threshold, flat > least)
    varies = flat.amax(1, keepdim=True) > least
    return above.to(s.dtype).mul_(2).sub_(1).mul_(varies).view_as(s)


def _minmax(s: Tensor) -> Tensor:
    flat = s.flatten(1)
    least, range_ = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True) - flat.amin(1, keepdim=True)
    return ((flat - least) / torch.where(range_ > 0, range_, 1)).view_as(s)


class _ReLUsAsModules(nn.Module):
    """`model`, each of whose ReLUs, module or function, is a module of its own that captum finds and hooks.

    On functions captum's rules are silently not applied, and on a module used twice they fail.
    """

    def __init__(self, model: nn.Module, x: Tensor):
        super().__init__()
        self.hidden = (model,)  # from captum: its ReLUs are shown once, below
        leaves = [m for m in model.modules() if not list(m.children()) and not isinstance(m, nn.ReLU)]
        self.others, self.relus = nn.ModuleList(leaves), nn.ModuleList()
        with torch.no_grad(), rectified_by(lambda t: self.relus.append(nn.ReLU())[-1](t)):
            model(x[:1])

    def forward(self, x: Tensor) -> Tensor:
        relus = iter(self.relus)
        with rectified_by(lambda t: next(relus)(t)):
            return self.hidden[0](x)


def _by_captum(attribution: type, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The map of a captum attribution with its own defaults, of x's shape."""
    with frozen(model), _quiet_hooks():
        return attribution(_ReLUsAsModules(model, x)).attribute(_leaf(x), target=y).detach()


@contextlib.contextmanager
def _quiet_hooks() -> Iterator[None]:
    """Within, captum does not announce that it sets hooks and removes them again."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Setting (forward, )?backward hooks", category=UserWarning)
        yield


def _captum() -> ModuleType:
    try:
        import captum.attr
    except ImportError as error:
        raise Mistake(f"this saliency needs the package captum: {error}") from error
    return captum.attr


def find(name: str) -> Saliency:
    """The function of that name in `SALIENCY`, or "captum.X" for captum's attribution X with its defaults.

    X is one that works by gradients and needs only x and y. captum is imported only for its own names. Raises
    `Mistake` for any other name, with the nearest.
    """
    if not name.startswith("captum."):
        if name not in SALIENCY:
            raise unknown("saliency", name, SALIENCY)
        return SALIENCY[name]
    attr = _captum()
    known = {f"captum.{n}" for n, c in vars(attr).items() if _takes_x_and_y(c, attr.GradientAttribution)}
    attribution = getattr(attr, name.removeprefix("captum."), None)
    if name in known:
        return functools.partial(_by_captum, attribution)
    if attribution is None:
        raise unknown("saliency", name, known)
    raise Mistake(f"{name} does not work by gradients of x and y alone; these do: {', '.join(sorted(known))}")


def _takes_x_and_y(thing: object, kind: type) -> bool:
    """Whether it is an attribution of that kind, made from a net alone, asked with x and `target` alone."""
    if not inspect.isclass(thing) or not issubclass(thing, kind) or thing is kind:
        return False
    if thing.__name__ == "LRP":  # has rules for modules only: wrong on a global average, and on shortcuts
        return False
    asked = [inspect.signature(f).parameters for f in (thing.__init__, thing.attribute)]
    further = [p for ps in asked for p in list(ps.values())[2:]]
    return "target" in asked[1] and all(p.default is not p.empty or p.kind is p.VAR_KEYWORD for p in further)


def signed(name: str) -> bool:
    """Whether the maps of that name have values of both signs."""
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

# Maps without negative values: 0 is the least of them, not a border between for and against.
UNSIGNED = frozenset({"gradcam", "gradcam_pp", "captum.Saliency"})
