"""Settings that name something: a method, a net, a data set, maps, suites, an optimiser, a schedule; ours or a plug-in.

A trial holds the pinned reference of a plug-in (`harness.plugins`), so that its key tells one version from another.
"""

from collections.abc import Mapping
from typing import Any

import methods
from harness import plugins
from harness.data import readers
from harness.evaluation import suites
from harness.explain.maps import MAPS
from harness.models.nets import NETS
from harness.plugins.registry import Registry
from harness.training.optim import OPTIMISERS, SCHEDULES
from methods import Setting

REGISTRIES: dict[str, Registry[Any]] = {
    "method": methods.METHODS,
    "model": NETS,
    "data": readers.EMBEDDED,
    "maps.saliency": MAPS,
    "maps.teacher": methods.METHODS,
    "attribution.maps": MAPS,
    "measure.suites": suites.SUITES,
    "optim.name": OPTIMISERS,
    "optim.schedule": SCHEDULES,
}
_COMPLETE = ("optim.name", "optim.schedule")  # nothing else can be named there; other names are looked up with the data
_SEPARATORS = {"maps.saliency": "+", "maps.teacher": "+", "attribution.maps": ",", "measure.suites": ","}


def pinned(path: str, value: Setting) -> Setting:
    """The value of a setting with each plug-in in it as its pinned reference; an entry point's name becomes one.

    Raises `UserError` for a plug-in that is not there, and for a name that a setting cannot have.
    """
    registry = REGISTRIES.get(path)
    if registry is None or not isinstance(value, str | tuple):
        return value
    if isinstance(value, tuple):
        return tuple(registry.pinned(name) if isinstance(name, str) else name for name in value)
    separator = _SEPARATORS.get(path)
    pinned = separator.join(map(registry.pinned, value.split(separator))) if separator else registry.pinned(value)
    if path in _COMPLETE:
        registry.find(pinned)
    return pinned


def all_pinned(settings: Mapping[str, Setting]) -> dict[str, Setting]:
    """Settings by dotted path, with `pinned` values."""
    return {path: pinned(path, value) for path, value in settings.items()}


def plugins_of(settings: Mapping[str, Setting]) -> list[str]:
    """The references in settings by dotted path, each once; of a trial they are pinned."""
    found = [name for path in REGISTRIES for name in plugins.references(settings.get(path))]
    return list(dict.fromkeys(found))
