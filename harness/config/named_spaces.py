"""Spaces by name: modules of `search_spaces/`, those that packages offer, and `path/to/my_space.py` or `module:SPACE`.

Nothing is imported to list them, and torch only with the space that is asked for.
"""

import ast
import importlib
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from harness import plugins
from harness.errors import UserError, one_line
from harness.plugins import Reference, Thing
from harness.plugins.registry import Modules, Registry

if TYPE_CHECKING:
    from harness.config.space import NamedSpace, Space

SPACES = Path(__file__).parents[2] / "search_spaces"
THING = "SPACE"  # what a module of a space calls it


def spaces() -> list[str]:
    """The names of our spaces."""
    return sorted(p.stem for p in SPACES.glob("*.py") if not p.stem.startswith("_"))


def space(name: str) -> "Space":
    """Import a space by name, or read one from a file. Raises `UserError` with the nearest name, or what is wrong."""
    if name.endswith(".toml"):
        return _study_of_file(name).space
    title(name)
    return REGISTRY.find(_reference(name))


def named_space(name: str) -> "NamedSpace":
    """A space by name, or of a file, with its question. Raises `UserError` as `space` does."""
    if name.endswith(".toml"):
        return _study_of_file(name)
    from harness.config.space import NamedSpace

    found, reference = space(name), pinned(name)
    return NamedSpace(title(name), found, summary(reference), reference=reference)


def _study_of_file(name: str) -> "NamedSpace":
    """The study in a TOML file. Raises `UserError` with the line of what is wrong."""
    from harness.config import study_file

    return study_file.read(Path(name).expanduser())


def title(name: str) -> str:
    """The name of a space in experiments and reports: of a plug-in without its folder.

    Raises `UserError` for a plug-in that has the name of one of ours.
    """
    reference = Reference.parse(_reference(name))
    if reference is None:
        return name
    module = Path(reference.where).stem if reference.of_file else reference.where
    found = module if reference.thing == THING else f"{module}.{reference.thing}"
    if found in spaces():
        raise UserError(f"space {name!r} would be taken for our space {found!r}; rename its file")
    return found


def pinned(name: str) -> str:
    """The reference of a space with the digest of its source; the name of one of ours."""
    return REGISTRY.pinned(_reference(name))


def summary(name: str) -> str:
    """First line of a space's docstring, read without importing it; in brackets why it cannot be read."""
    if name in spaces():
        text = _docstring(SPACES / f"{name}.py")
    else:
        try:
            text = ast.get_docstring(ast.parse(plugins.text(pinned(name)))) or ""
        except (UserError, SyntaxError, ValueError) as error:
            text = f"({error})"
    return text.partition("\n")[0]


def _reference(name: str) -> str:
    """The reference that a text is, or stands for: `my_space.py` is `my_space.py:SPACE`."""
    return f"{name}:{THING}" if name.endswith(".py") else name


def _docstring(file: Path) -> str:
    try:
        return ast.get_docstring(ast.parse(file.read_bytes(), str(file))) or ""
    except (SyntaxError, ValueError, OSError) as error:
        return f"({_broken(file, error)})"


def _broken(file: Path, error: BaseException) -> str:
    """What is wrong with a module: its file, the line where that is known, and the error."""
    if isinstance(error, SyntaxError):
        return f"{Path(error.filename or file).name}, line {error.lineno}: {error.msg}"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename) == file]
    return f"{file.name}{f', line {frames[-1].lineno}' if frames else ''}: {one_line(error)}"


def _load(name: str) -> "Space":
    """Import one of our spaces."""
    try:
        return importlib.import_module(f"search_spaces.{name}").SPACE
    except UserError as error:
        raise UserError(f"space {name!r} is wrong: {error}") from None
    except Exception as error:  # of anybody's code
        raise UserError(f"space {name!r} cannot be read: {_broken(SPACES / f'{name}.py', error)}") from error


def _check(thing: Thing) -> "Space":
    from harness.config.space import Space

    if not isinstance(thing, Space):
        raise UserError(f"it is a {type(thing).__name__}, not a harness.config.space.Space")
    return thing


REGISTRY: "Registry[Space]" = Registry("space", "spaces", Modules(spaces, _load), _check)
