"""Registry: the things of one kind by name. Ours, those that installed packages offer, and references to any others.

    NETS = Registry("model", "nets", {"small": small}, check=...)
    NETS["small"], NETS["my_net.py:build"], NETS["offered"]     offered: by an entry point of `saliency_harness.nets`

`for name in NETS` are ours. Code of others is imported when it is asked for, not before.
"""

import functools
import importlib.metadata
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import TypeVar

from harness import plugins
from harness.errors import UserError, shown, unknown_name
from harness.plugins import Thing

ENTRY_POINTS = "saliency_harness"  # before the kind, in the name of a group of entry points
_T = TypeVar("_T")


class Modules(Mapping[str, _T]):
    """The things of our modules by name. names(): without an import. load(name): imports it when it is asked for."""

    def __init__(self, names: Callable[[], list[str]], load: Callable[[str], _T]):
        self._names, self._load = names, load

    def __iter__(self) -> Iterator[str]:
        return iter(self._names())

    def __len__(self) -> int:
        return len(self._names())

    def __contains__(self, name: Thing) -> bool:
        return name in self._names()

    def __getitem__(self, name: str) -> _T:
        return self._load(name)


class Registry(MutableMapping[str, _T]):
    """kind: as messages call a thing of it. group: of its entry points, after `saliency_harness.`. own: ours.

    check(thing): the thing of a plug-in as one of this kind. Raises `UserError` that says what is wrong with it.
    """

    def __init__(self, kind: str, group: str, own: Mapping[str, _T], check: Callable[[Thing], _T]):
        self.kind, self.group = kind, f"{ENTRY_POINTS}.{group}"
        self._own, self._check = own, check
        self._plugins: dict[str, _T] = {}

    def find(self, name: str) -> _T:
        """The thing of that name. Raises `UserError` with the nearest name, or what is wrong with a plug-in."""
        if name in self:
            return self[name]
        error = unknown_name(self.kind, name, {*self, *self.offered()})
        if name.endswith(".py"):
            raise UserError(f"{self.kind} {shown(name)} is a file; name the thing in it, such as {name}:NAME")
        raise error

    def pinned(self, name: str) -> str:
        """The name as a trial's settings have it: of a plug-in its reference with the digest of its source."""
        offered = self.offered()
        if name in self._own:
            if name in offered:
                raise self._shadow(name)
            return name
        try:
            return plugins.pinned(offered.get(name, name))
        except UserError as error:
            raise UserError(f"{self.kind} {shown(name)}: {error}") from None

    def offered(self) -> dict[str, str]:
        """What installed packages offer: its name, and its reference."""
        return _entry_points(self.group)

    def __contains__(self, name: Thing) -> bool:
        plugin = isinstance(name, str) and (plugins.is_reference(name) or name in self.offered())
        return name in self._own or plugin

    def __iter__(self) -> Iterator[str]:
        return iter(self._own)

    def __len__(self) -> int:
        return len(self._own)

    def __setitem__(self, name: str, thing: _T) -> None:
        self._own = {**self._own, name: thing}

    def __delitem__(self, name: str) -> None:
        self._own = {other: thing for other, thing in self._own.items() if other != name}

    def __getitem__(self, name: str) -> _T:
        if name in self._own:
            return self._own[name]
        if not plugins.is_reference(pinned := self.pinned(name)):
            raise KeyError(name)
        if pinned not in self._plugins:
            try:
                self._plugins[pinned] = self._check(plugins.load(pinned))
            except UserError as error:
                raise UserError(f"{self.kind} {shown(name)}: {error}") from None
        return self._plugins[pinned]

    def _shadow(self, name: str) -> UserError:
        return UserError(
            f"{self.kind} {name!r} is a name of ours, and the package of {self.offered()[name]!r} gives it to its own;"
            " uninstall that package, or have it rename its entry point"
        )


def offers_anything() -> bool:
    """Whether an installed package has an entry point of any group of ours."""
    return any(group.startswith(f"{ENTRY_POINTS}.") for group in importlib.metadata.entry_points().groups)


@functools.cache
def _entry_points(group: str) -> dict[str, str]:
    """Name and reference of the entry points of a group. Raises `UserError` for two of one name."""
    found: dict[str, str] = {}
    for point in importlib.metadata.entry_points(group=group):
        reference = f"{point.module}:{point.attr}" if point.attr else point.value
        if found.setdefault(point.name, reference) != reference:
            raise UserError(f"two packages offer {point.name!r} in {group}: {found[point.name]} and {reference}")
    return found
