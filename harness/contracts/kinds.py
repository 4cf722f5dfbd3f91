"""The kinds of things that can be named, each with its names and its contract; and of which kind a thing is."""

import inspect
from dataclasses import dataclass
from typing import Any

import methods
from harness import plugins
from harness.config import named_spaces
from harness.config.space import Space
from harness.contracts import corruptions, data_sets, maps, nets, optimisation, spaces, suites
from harness.contracts import methods as method_contract
from harness.contracts.promise import Promise
from harness.data.corruptions.registry import CORRUPTIONS, Corruption
from harness.data.readers import EMBEDDED
from harness.errors import UserError, shown
from harness.evaluation.suites import SUITES, Suite
from harness.explain.base import Map
from harness.explain.maps import MAPS
from harness.models.nets import NETS
from harness.plugins import Thing
from harness.plugins.registry import Registry
from harness.training.optim import OPTIMISERS, SCHEDULES


@dataclass(frozen=True)
class Kind:
    """A kind of things. takes: the names of the parameters of a function of this kind."""

    registry: Registry[Any]
    contract: tuple[Promise, ...]
    takes: tuple[str, ...] = ()


KINDS = {
    "method": Kind(methods.METHODS, method_contract.CONTRACT),
    "net": Kind(NETS, nets.CONTRACT, ("channels", "classes")),
    "data": Kind(EMBEDDED, data_sets.CONTRACT, ("size",)),
    "map": Kind(MAPS, maps.CONTRACT),
    "corruption": Kind(CORRUPTIONS, corruptions.CONTRACT, ("x", "severity", "draws")),
    "suite": Kind(SUITES, suites.CONTRACT, ("context",)),
    "space": Kind(named_spaces.REGISTRY, spaces.CONTRACT),
    "optimiser": Kind(OPTIMISERS, optimisation.OPTIMISER, ("optim", "model")),
    "schedule": Kind(SCHEDULES, optimisation.SCHEDULE, ("progress",)),
}
_TYPES = {Suite: "suite", Space: "space", Corruption: "corruption"}


def kind_of(name: str) -> str:
    """The kind that a name is of, or the thing that a reference names. Raises `UserError` if that cannot be told."""
    if plugins.is_reference(name):
        return _kind_of_thing(name, plugins.load(name))
    found = [kind for kind, of in KINDS.items() if name in of.registry]
    if not found and name.endswith(".py"):
        raise UserError(f"{shown(name)} is a file; name the thing in it, such as {name}:NAME")
    if not found:
        raise UserError(f"{name!r} is no name of ours and no reference, such as my_method.py:MyMethod")
    if len(found) > 1:
        raise UserError(f"{name!r} is a {' and a '.join(found)}; say which: --as {found[0]}")
    return found[0]


def _kind_of_thing(name: str, thing: Thing) -> str:
    if isinstance(thing, type):
        return "map" if issubclass(thing, Map) else "method"
    for kind, its_name in _TYPES.items():
        if isinstance(thing, kind):
            return its_name
    takes = tuple(inspect.signature(thing).parameters) if inspect.isfunction(thing) else ()
    for its_name, of in KINDS.items():
        if takes and takes == of.takes:
            return its_name
    raise UserError(f"{name!r} may be of several kinds; say which: --as {' | '.join(KINDS)}")
