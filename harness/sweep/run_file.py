"""A run file: a command line of `harness.tune` as TOML, with a study if that is no module.

    space = "sat"
    trials = 20
    cell = ["noise", "standard"]
    [set]
    epochs = 30

A key is an option without its hyphens, and `[set]` has what `--set` takes. So a run file and a command line are checked
by the same parser, and relative paths are those of the working directory in both.
"""

import contextlib
import dataclasses
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.config.toml_file import Keys, TomlFile, WrongLine, as_text
from harness.duration import duration_text
from harness.errors import UserError, redacted, shown
from harness.storage import files
from harness.sweep.request import Request

if TYPE_CHECKING:
    from harness.config.space import NamedSpace

NOT_ASKED = ("space", "settings", "cells", "retry_failed", "quiet")  # of a request: written otherwise, or not at all
OPTIONS = (
    "space",
    "data",
    "cell",
    *(f.name.replace("_", "-") for f in dataclasses.fields(Request) if f.name not in NOT_ASKED),
)
KEYS = (*OPTIONS, "set", "study")


@dataclass(frozen=True)
class RunFile:
    """A parsed run file."""

    toml: TomlFile

    @classmethod
    def read(cls, path: Path, check: Callable[[Sequence[str]], object]) -> "RunFile":
        """check: the parser of words. Raises `UserError`, with the line, for a wrong key or value."""
        file = TomlFile.read(path)
        file.check_keys((), KEYS)
        found = cls(file)
        for keys, words in found._entries():
            try:
                check(words)
            except UserError as error:
                raise file.wrong(keys, str(error).removeprefix("--")) from None
        if "study" in file.data and "space" in file.data:
            raise file.wrong(("space",), "there is a study in this file, so it takes no space")
        return found

    def words(self, *, cells: bool = True) -> list[str]:
        """The words of the command line. cells: whether to choose those of the file."""
        return [word for keys, words in self._entries() for word in words if cells or keys != ("cell",)]

    def study(self) -> "NamedSpace | None":
        """The study in the file, if there is one. Raises `UserError` with the line of what is wrong."""
        from harness.config import study_file

        return study_file.space_of(self.toml, ("study",)) if "study" in self.toml.data else None

    def placed(self, error: UserError, attempt: "Callable[[RunFile], object]") -> UserError:
        """An error of planning with the line of the value that it is due to; as it is, if that is not in this file.

        attempt: what raises the error with this file alone.
        """
        from harness.config import study_file

        try:
            attempt(self)
        except WrongLine:
            return error
        except UserError as of_file:
            if str(of_file) == str(error):
                keys = study_file.blamed(self.toml, (), str(error), lambda other: attempt(RunFile(other)))
                return self.toml.wrong(keys, str(error).removeprefix("--"))
        return error

    def _entries(self) -> Iterator[tuple[Keys, list[str]]]:
        """The words of each entry."""
        for key, value in self.toml.data.items():
            if key == "set":
                yield from self._settings()
            elif key != "study":
                several = value if key == "cell" and isinstance(value, list) else [value]
                yield (key,), [f"--{key}={self._word((key,), one)}" for one in several]

    def _settings(self) -> Iterator[tuple[Keys, list[str]]]:
        from harness.config import study_file

        if not isinstance(self.toml.data["set"], dict):
            raise self.toml.wrong(("set",), "set is a table of settings: [set]")
        for path, keys, value in study_file.leaves(self.toml, ("set",)):
            given = study_file.setting(self.toml, keys, path, value)
            yield keys, ["--set", f"{path}={_text(given)}"]

    def _word(self, keys: Keys, value: Any) -> str:
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise self.toml.wrong(keys, f"{keys[0]} takes a number or a text, not {shown(str(value))}")
        return str(value)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(_text, value)) if isinstance(value, tuple) else str(value)


def _typed(value: Any) -> Any:
    """A text as the number or the truth value that it is in TOML, if it is one."""
    with contextlib.suppress(tomllib.TOMLDecodeError):
        if isinstance(value, str) and isinstance(found := tomllib.loads(f"x = {value}")["x"], int | float):
            return found if _text(found) == value else value
    return value


def written(request: Request) -> str:
    """A request as a run file: what differs from the defaults. A space of Python code is given by its name alone.

    An address with a password is left out.
    """
    space, settings = request.space, dict(request.settings)
    table = None if space is None or isinstance(space, str) else space.table
    data: dict[str, Any] = {}
    if isinstance(space, str):
        data["space"] = space
    elif space is not None and table is None:
        data["space"] = space.name
    if "data" in settings:
        data["data"] = settings.pop("data")
    if request.cells:
        data["cell"] = list(request.cells)
    for field in dataclasses.fields(request):
        value = getattr(request, field.name)
        value = duration_text(value) if field.name == "budget" and value else value
        if field.name not in NOT_ASKED and value != field.default and redacted(str(value)) == str(value):
            data[field.name.replace("_", "-")] = value
    tables = {"set": {path: _typed(value) for path, value in settings.items()}} if settings else {}
    return as_text({**data, **tables, **({"study": table} if table else {})}) + "\n"


def keep(request: Request, path: Path) -> bool:
    """Write a request beside the log of its sweep. Returns whether it was another one before, or none."""
    text = written(request)
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return False
    files.write(path, lambda file: file.write_text(text, encoding="utf-8"))
    return True


def write(request: Request, path: Path) -> None:
    """Write a request as a new run file. Raises `UserError` if there is one."""
    if path.suffix != ".toml":
        raise UserError(f"--write-run takes the name of a .toml file, not {shown(str(path))}")
    if path.exists():
        raise UserError(f"--write-run: {str(path)!r} exists already; choose another name")
    files.write(path, lambda file: file.write_text(written(request), encoding="utf-8"))
