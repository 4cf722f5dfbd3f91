"""A study as TOML, without Python: the fields of a `Space`, with domains such as `{times = [0.5, 1, 2]}`.

goal = "val/robust"
[compare.sat]
method = "sat"
[search]
"method.eps" = {times = [0.5, 1, 2]}
"optim.lr" = {within = 3}
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from harness.config import search_domains
from harness.config.search_domains import Domain, Relative
from harness.config.space import NamedSpace, Space
from harness.config.toml_file import Keys, Table, TomlFile
from harness.errors import UserError, nearest, shown
from methods import Setting

DOMAINS: dict[str, Callable[..., Domain | Relative]] = {
    "uniform": search_domains.uniform,
    "log": search_domains.log,
    "integer": search_domains.integer,
    "choice": search_domains.choice,
    "ordered": search_domains.ordered,
    "times": search_domains.times,
    "within": search_domains.within,
}
ARGUMENTS = {"uniform": 2, "log": 2, "integer": 2, "within": 1}  # numbers, of those that do not take any number
TABLES = ("base", "compare", "search", "floor")
WHOLE = ("trials", "seeds", "halving")
KEYS = ("name", "question", *TABLES, "goal", "controls", *WHOLE)
_T = TypeVar("_T")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


def read(path: Path) -> NamedSpace:
    """The study of a file of its own; its name is by default that of the file. Raises `UserError` with the line."""
    return space_of(TomlFile.read(path), (), path.stem)


def space_of(file: TomlFile, keys: Keys, name: str | None = None) -> NamedSpace:
    """The study in the table at `keys`. name: the default. Raises `UserError` with the line of what is wrong."""
    try:
        return _space(file, keys, name)
    except _Unplaced as error:
        at = blamed(file, keys, str(error), lambda other: _space(other, keys, name))
        raise file.wrong(at, str(error)) from None


class _Unplaced(UserError):
    """An error about a study as a whole."""


def blamed(file: TomlFile, below: Keys, message: str, attempt: Callable[[TomlFile], object]) -> Keys:
    """The keys of the value that an error is due to: without it `attempt` succeeds, or else complains of another thing.

    below: where to look; the answer if no single value is to blame.
    """
    changed = None
    for keys in [keys for keys in file.values() if keys[: len(below)] == below]:
        try:
            attempt(file.without(keys))
        except UserError as error:
            if changed is None and str(error) != message:
                changed = keys
        else:
            return keys
    return changed or below


def _space(file: TomlFile, keys: Keys, name: str | None) -> NamedSpace:
    table = _table(file, keys)
    file.check_keys(keys, KEYS)
    for key in TABLES:
        if key in table and not isinstance(table[key], dict):
            raise file.wrong((*keys, key), f"{key} is a table, not {shown(table[key])}")
    if not table.get("compare"):
        raise file.wrong(keys, "a study compares something: it has a table [compare.NAME] for each cell")
    if "name" not in table and name is None:
        raise file.wrong(keys, 'a study within a run file has a name: name = "mine"')
    named = table.get("name", name)
    if not isinstance(named, str) or not _NAME.fullmatch(named):
        raise file.wrong(
            (*keys, "name"),
            f"the name of a study has letters, digits, dots, - and _ only, not {shown(named)}",
        )
    if not isinstance(table.get("question", ""), str):
        raise file.wrong((*keys, "question"), f"question is a text, not {shown(table['question'])}")
    fields: dict[str, Any] = {
        "base": settings(file, (*keys, "base")),
        "compare": {cell: settings(file, (*keys, "compare", cell)) for cell in table["compare"]},
        "search": {path: domain for path, _, domain in _once(file, _domains(file, (*keys, "search")))},
        "floor": {path: _number(file, at, value) for path, at, value in leaves(file, (*keys, "floor"))},
        **{key: _whole(file, (*keys, key)) for key in WHOLE if key in table},
        **{key: _names(file, (*keys, key)) for key in ("goal", "controls") if key in table},
    }
    try:
        space = Space(**fields)
    except UserError as error:
        raise _Unplaced(str(error)) from None
    return NamedSpace(named, space, table.get("question", ""), {"name": named, **table})


def _table(file: TomlFile, keys: Keys) -> Table:
    data: Any = file.data
    for key in keys:
        data = data.get(key, {})
        if not isinstance(data, dict):
            raise file.wrong(keys, f"{key} is a table, not {shown(data)}")
    return data


def leaves(file: TomlFile, keys: Keys) -> Iterator[tuple[str, Keys, Any]]:
    """The values of a table and of those in it: dotted path, keys, value. `a.b = 1` and `"a.b" = 1` are the same.

    Raises `UserError` for a file that has both.
    """
    return _once(file, _leaves(file, keys))


def _once(file: TomlFile, found: Iterable[tuple[str, Keys, _T]]) -> Iterator[tuple[str, Keys, _T]]:
    """What was found. Raises `UserError` for a path that is there twice, which TOML does not see."""
    before = set()
    for path, keys, value in found:
        if path in before:
            raise file.wrong(keys, f"{path} is given twice, as {path} and as {json.dumps(path)}")
        before.add(path)
        yield path, keys, value


def _leaves(file: TomlFile, keys: Keys, path: str = "") -> Iterator[tuple[str, Keys, Any]]:
    for key, value in _table(file, keys).items():
        at, dotted = (*keys, key), f"{path}.{key}" if path else key
        if isinstance(value, dict):
            yield from _leaves(file, at, dotted)
        else:
            yield dotted, at, value


def settings(file: TomlFile, keys: Keys) -> dict[str, Setting]:
    """The settings in the table at `keys`, dotted path -> value. Raises `UserError` for a value that no setting has."""
    return {path: setting(file, at, path, value) for path, at, value in leaves(file, keys)}


def setting(file: TomlFile, keys: Keys, path: str, value: Any) -> Setting:
    if isinstance(value, list):
        return tuple(setting(file, keys, path, one) for one in value)  # type: ignore[misc]  # no lists in lists
    if not isinstance(value, str | int | float | bool):
        raise file.wrong(keys, f"{path} takes a number, a text, true or false, or several, not {shown(str(value))}")
    return value


def _domains(file: TomlFile, keys: Keys, path: str = "") -> Iterator[tuple[str, Keys, Domain | Relative]]:
    for key, value in _table(file, keys).items():
        at, dotted = (*keys, key), f"{path}.{key}" if path else key
        if isinstance(value, dict) and not DOMAINS.keys().isdisjoint(value):
            yield dotted, at, _domain(file, at, dotted, value)
        elif isinstance(value, dict) and "." not in dotted:  # the group of a setting
            yield from _domains(file, at, dotted)
        else:
            given = next(iter(value), "") if isinstance(value, dict) else ""
            about = f"no domain {shown(given)}; {nearest(given, DOMAINS)}" if given else f"not {shown(str(value))}"
            raise file.wrong(at, f"{dotted} is searched in a domain such as {{times = [0.5, 1, 2]}}: {about}")


def _domain(file: TomlFile, keys: Keys, path: str, table: Table) -> Domain | Relative:
    kind = next(key for key in ("integer", *DOMAINS) if key in table)
    more = {key: value for key, value in table.items() if key != kind}
    if more.keys() - ({"log"} if kind == "integer" else set()) or not isinstance(more.get("log", False), bool):
        extra = next(iter(more))
        raise file.wrong(keys, f"{path} is searched in one domain, not in {kind} and {extra}")
    values = table[kind] if isinstance(table[kind], list) else [table[kind]]
    expected = ARGUMENTS.get(kind)
    if expected not in (None, len(values)):
        raise file.wrong(keys, f"{path}: {kind} takes {expected} number{'s' * (expected != 1)}, not {len(values)}")
    if kind in ("choice", "ordered"):
        values = [setting(file, keys, path, value) for value in values]
    else:
        values = [_number(file, keys, value) for value in values]
    try:
        return DOMAINS[kind](*values, **more)
    except UserError as error:
        raise file.wrong(keys, f"{path}: {error}") from None


def _number(file: TomlFile, keys: Keys, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise file.wrong(keys, f"{keys[-1]} takes numbers, not {shown(str(value))}")
    return value


def _whole(file: TomlFile, keys: Keys) -> int:
    value = _table(file, keys[:-1])[keys[-1]]
    least = 1 if keys[-1] == "trials" else 0
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise file.wrong(keys, f"{keys[-1]} takes a whole number from {least}, not {shown(str(value))}")
    return value


def _names(file: TomlFile, keys: Keys) -> str | tuple[str, ...]:
    value = _table(file, keys[:-1])[keys[-1]]
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise file.wrong(keys, f"{keys[-1]} takes a name or a list of names, not {shown(str(value))}")
    return value if isinstance(value, str) and keys[-1] == "goal" else tuple(names)
