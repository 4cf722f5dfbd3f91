"""TOML files that say where: each complaint about a key has the file and the line of the key."""

import copy
import functools
import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import UserError, nearest, shown

LARGEST = 200_000  # characters of a file
Keys = tuple[str, ...]  # of nested tables, outermost first
Table = dict[str, Any]  # as tomllib gives it; its values are checked by who reads it
_PLACE = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")
_BARE = re.compile(r"[A-Za-z0-9_-]+")


class WrongLine(UserError):
    """An error whose message begins with the file and the line."""


@dataclass(frozen=True)
class TomlFile:
    """A parsed file. name: as the user gave it."""

    name: str
    text: str
    data: Table

    @classmethod
    def read(cls, path: Path) -> "TomlFile":
        """Raises `UserError`, with the line, for a file that is no TOML."""
        try:
            text = path.read_bytes().decode()
        except OSError as error:
            there = [file.name for file in path.parent.glob("*.toml")] if isinstance(error, FileNotFoundError) else []
            hint = f"; {nearest(path.name, there)}" if there else ""
            raise UserError(f"cannot read {str(path)!r}: {error.strerror}{hint}") from None
        except UnicodeDecodeError as error:
            line = path.read_bytes()[: error.start].count(b"\n") + 1
            raise WrongLine(f"{path}, line {line}: the file is not text in UTF-8") from None
        if len(text) > LARGEST:
            raise UserError(f"{str(path)!r} is larger than {LARGEST} characters")
        try:
            return cls(str(path), text, tomllib.loads(text))
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            place = _PLACE.search(str(error))
            line = int(place[1]) if place and place[1] else len(text.splitlines())
            about = _PLACE.sub("", str(error)).rstrip(".") or "nothing"
            raise WrongLine(f"{path}, line {max(1, line)}: {about[0].lower()}{about[1:]}") from None

    def wrong(self, keys: Keys, message: str) -> WrongLine:
        """An error about the value at `keys`, which may be absent: then about the table that lacks it."""
        return WrongLine(f"{self.name}, line {self.line(keys)}: {message}")

    def line(self, keys: Keys) -> int:
        """The line on which the statement begins that gives the value at `keys`; 1 if nothing does.

        It begins after the last beginning of the file that is TOML and has no such key: tomllib itself finds it.
        """
        return next((before + 1 for before, data in self._beginnings if _has(data, keys)), 1) if keys else 1

    @functools.cached_property
    def _beginnings(self) -> list[tuple[int, Table]]:
        """What each beginning of the file that is TOML holds, with the number of lines of the one before it."""
        lines, found, before = self.text.splitlines(keepends=True), [], 0
        for number in range(1, len(lines) + 1):
            try:
                data = tomllib.loads("".join(lines[:number]))
            except tomllib.TOMLDecodeError:
                continue
            found.append((before, data))
            before = number
        return found

    def check_keys(self, keys: Keys, known: Sequence[str]) -> None:
        """Raise `UserError` for a key of the table at `keys` that is not known."""
        table = functools.reduce(lambda data, key: data[key], keys, self.data)
        for key in table:
            if key not in known:
                raise self.wrong((*keys, key), f"there is no key {shown(key)} here; {nearest(key, known)}")

    def without(self, keys: Keys) -> "TomlFile":
        """The file without the value at `keys`, to try whether an error is due to it."""
        data = copy.deepcopy(self.data)
        *tables, last = keys
        del functools.reduce(lambda table, key: table[key], tables, data)[last]
        return TomlFile(self.name, self.text, data)

    def values(self, data: Table | None = None, keys: Keys = ()) -> Iterator[Keys]:
        """The keys of all values that are no tables, in order, then of the tables."""
        tables = []
        for key, value in (self.data if data is None else data).items():
            if isinstance(value, dict):
                yield from self.values(value, (*keys, key))
                tables.append((*keys, key))
            else:
                yield (*keys, key)
        yield from tables


def _has(data: Table, keys: Keys) -> bool:
    for key in keys:
        if not isinstance(data, dict) or key not in data:
            return False
        data = data[key]
    return True


def as_text(data: Mapping[str, Any]) -> str:
    """A table as TOML: first its values, then its tables, each under a header. Raises `TypeError` for other types."""
    return "\n".join(_lines(data, ())).lstrip("\n")


def _lines(data: Mapping[str, Any], keys: Keys) -> Iterator[str]:
    for key, value in data.items():
        if not isinstance(value, Mapping):
            yield f"{_key(key)} = {_value(value)}"
    for key, value in data.items():
        if isinstance(value, Mapping):
            below = (*keys, key)
            if not value or any(not isinstance(one, Mapping) for one in value.values()):
                yield f"\n[{'.'.join(map(_key, below))}]"
            yield from _lines(value, below)


def _key(key: str) -> str:
    return key if _BARE.fullmatch(key) else _value(key)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    raise TypeError(f"no value of TOML: {value!r}")
