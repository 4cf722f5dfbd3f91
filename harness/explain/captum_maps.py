"""captum's attributions, by the names "captum.X", and guided backpropagation as in the code released with SAT."""

import contextlib
import inspect
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor, nn

from harness.errors import UserError, unknown_name
from harness.explain.base import Map
from harness.models.relus import rectified_by

PREFIX = "captum."


@dataclass(frozen=True)
class CaptumMap(Map):
    """captum's attribution `name`, with captum's defaults. `find` makes it, and imports captum."""

    name: str

    @property
    def signed(self) -> bool:
        return self.name != "Saliency"

    def __call__(self, net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        attribution = getattr(_captum(), self.name)
        with _quiet_hooks():
            return attribution(_ReLUsAsModules(net, x)).attribute(_leaf(x), target=y)


@dataclass(frozen=True)
class GuidedBackpropModules(Map):
    """Guided backpropagation through `nn.ReLU` modules only, as in the code released with SAT.

    For a net that calls `F.relu`, as the ResNets of both codes do, this is the plain gradient. Raises `UserError`
    without captum.
    """

    def __call__(self, net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        with _quiet_hooks():
            return _captum().GuidedBackprop(net).attribute(_leaf(x), target=y)


def find(name: str) -> CaptumMap:
    """The attribution X of captum for the name "captum.X".

    X must be gradient-based and need only x and y. Raises `UserError` without captum, and for any other name.
    """
    attr = _captum()
    known = {PREFIX + n for n, c in vars(attr).items() if _takes_x_and_y(c, attr.GradientAttribution)}
    if name in known:
        return CaptumMap(name.removeprefix(PREFIX))
    if not hasattr(attr, name.removeprefix(PREFIX)):
        raise unknown_name("saliency", name, known)
    raise UserError(f"{name} does not work by gradients of x and y alone; these do: {', '.join(sorted(known))}")


def _takes_x_and_y(candidate: object, kind: type) -> bool:
    """Whether it is a subclass of `kind` that needs only the net to construct, and x and `target` to attribute."""
    if not inspect.isclass(candidate) or not issubclass(candidate, kind) or candidate is kind:
        return False
    if candidate.__name__ == "LRP":  # has rules for modules only: wrong for global average pooling and shortcuts
        return False
    signatures = [inspect.signature(getattr(candidate, f)).parameters for f in ("__init__", "attribute")]
    other_parameters = [p for ps in signatures for p in list(ps.values())[2:]]
    return "target" in signatures[1] and all(
        p.default is not p.empty or p.kind is p.VAR_KEYWORD for p in other_parameters
    )


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


def _leaf(x: Tensor) -> Tensor:
    return x.detach().requires_grad_(True)


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
