"""Choose cells of a space, or make one more of it: another method in the place of a cell's own, everything else as is.

choose(space, ["pgd"], {"method": "mine"}).cells      # one cell, `mine`, beside those of the space
"""

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from harness.config.named_settings import all_pinned
from harness.config.search_domains import Domain, Relative, contains
from harness.config.space import Cell, Space
from harness.config.trial import build, has_setting
from harness.errors import UserError, short_name, unknown_name
from harness.plugins import is_reference, label
from methods import Setting

Settings = Mapping[str, Setting]
NAME = 200  # characters of a new cell's name: MLflow keeps 250 of the name of a run


@dataclass(frozen=True)
class Chosen:
    """cells: those chosen. space_cells: all of the space under the same settings. note: how a new one was made.

    settings: those given for all cells but the data set, without any that changes none of them.
    """

    cells: list[Cell]
    space_cells: list[Cell]
    note: str = ""
    settings: Settings = field(default_factory=dict)


def choose(space: Space, names: Sequence[str], overrides: Settings) -> Chosen:
    """The named cells of a space (all if none is named), with `overrides` applied.

    With one name, `overrides` may set the method, and what the space compares: the named cell is then the base of a
    new one. Raises `UserError` for an unknown name, or a setting that no cell has.
    """
    overrides = all_pinned(overrides)
    for name in names:
        if name not in space.compare:
            hint = f" (a method is tried in the place of a cell's own by --set method={name})" * is_reference(name)
            raise UserError(f"{unknown_name('cell', name, space.compare)}{hint}")
    own = _own_settings(space, overrides) if len(names) == 1 else {}
    shared = {path: value for path, value in overrides.items() if path not in own}
    cells = space.cells(shared)
    if own:
        cell, note = _new_cell(space, names[0], own, shared, cells)
        return Chosen([cell], cells, note, _changes(space, shared, cells))
    chosen = [cell for cell in cells if not names or cell.name in names]
    for path in (path for path in shared if path.startswith("method.")):
        if not any(has_setting(cell.trial, path) for cell in chosen):
            raise UserError(f"{path} has no effect: the method of {_listed(names)} has no such setting")
    return Chosen(chosen, cells, settings=_changes(space, shared, cells))


def _changes(space: Space, shared: Settings, cells: list[Cell]) -> dict[str, Setting]:
    """The settings, as the cells have them, that fix what a cell would search, or give it another value."""
    plain = space.cells({path: value for path, value in shared.items() if path == "data"})
    changes: dict[str, Setting] = {}
    for path in sorted(shared.keys() - {"data"}):
        pairs = [
            (cell.trial.flat(), before.trial.flat(), before.search) for cell, before in zip(cells, plain, strict=True)
        ]
        if any(now.get(path) != before.get(path) or path in search for now, before, search in pairs):
            changes[path] = next(now[path] for now, _, _ in pairs if path in now)
    return changes


def _own_settings(space: Space, overrides: Settings) -> Settings:
    """The overrides that are a new cell's own; none if the space's cells can have them all.

    With a new method its settings are: a setting of the same name in other cells is another one.
    """
    compared = {"method"}.union(*space.compare.values())
    if compared.isdisjoint(overrides):
        return {}
    cells = space.cells({path: value for path, value in overrides.items() if path == "data"})
    return {
        path: value
        for path, value in overrides.items()
        if path in compared
        or (
            path.startswith(("method.", "maps."))
            and ("method" in overrides or not any(has_setting(cell.trial, path) for cell in cells))
        )
    }


def _new_cell(space: Space, base: str, own: Settings, shared: Settings, cells: list[Cell]) -> tuple[Cell, str]:
    """The cell with the settings of `base`, replaced by `own`, and one line that says so."""
    origin = next(cell for cell in cells if cell.name == base)
    settings = {**space.base, **space.compare[base], **own}
    plain = build({path: value for path, value in {**settings, **shared}.items() if path in ("method", "data")})
    lost = [p for p in settings if p.startswith(("method.", "maps.")) and not has_setting(plain, p)]
    for path in (path for path in lost if path.startswith("maps.") and path in own):
        raise UserError(f"{path} has no effect: method {plain.flat()['method']} reads no maps")
    lost = [path for path in lost if path not in own]  # `build` names those
    settings = {path: value for path, value in settings.items() if path not in lost}
    trial = build({**settings, **shared})
    name = _name(space, base, own, kept=[path for path in space.compare[base] if path in settings])
    search = {path: domain for path, domain in space.search.items() if has_setting(trial, path)}
    search = {path: domain for path, domain in search.items() if path not in {**own, **shared}}
    for path, domain in search.items():
        _check_default(name, path, trial.flat()[path], domain)
    (cell,) = dataclasses.replace(space, base=settings, compare={name: {}}, search=search, controls=()).cells(shared)
    for same in cells:
        if (same.trial, same.search) == (cell.trial, cell.search):
            raise UserError(f"that is a cell of this space already; choose it: --cell {shlex.quote(same.name)}")
    before, now = origin.trial.flat(), cell.trial.flat()
    changes = [f"{p} = {now[p]}" + (f" instead of {before[p]}" if p in before else "") for p in own]
    dropped = [*lost, *(path for path in origin.search if path not in {**search, **own})]
    ending = f"; it has no {', '.join(dropped)}" if dropped else ""
    return cell, f"cell {base} is the base of {name}: {', '.join(changes)}{ending}"


def _listed(names: Sequence[str]) -> str:
    return f"cell{'s' if len(names) > 1 else ''} {', '.join(map(repr, names))}"


def _name(space: Space, base: str, own: Settings, kept: Sequence[str]) -> str:
    """The row's name: the method's, if that replaces all that the base differs in; else the base's with the changes."""
    changes = [f"{path}={_shown(value)}" for path, value in own.items()]
    if "method" in own and set(kept) <= set(own):
        short = ", ".join([_shown(own["method"]), *(text for text in changes if not text.startswith("method="))])
        if short not in space.compare:
            return short_name(short, NAME)
    return short_name(", ".join([base, *changes]), NAME)


def _shown(value: Setting) -> str:
    return label(value) if isinstance(value, str) else str(value)


def _check_default(name: str, path: str, value: Setting, domain: Domain | Relative) -> None:
    """Raise `UserError`, with the way out, for a domain that the new method's own default does not fit."""
    if isinstance(domain, Relative):
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            raise UserError(
                f"cell {name!r} cannot search {path} around its default {value!r}; fix it, such as --set {path}=0.1"
            )
    elif not contains(domain, value):
        raise UserError(
            f"cell {name!r} cannot search {path} in the space's domain, which its default {value!r} is outside; fix it,"
            f" such as --set {path}={value}"
        )
