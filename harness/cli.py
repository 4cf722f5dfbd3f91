"""Shared command-line arguments, and look-up of spaces and cells before torch is imported."""

import argparse
import ast
import dataclasses
import hashlib
import importlib
import os
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.arguments import Arguments, place, whole
from harness.errors import UserError, one_line, shown, unknown_name
from harness.storage.workspace import Workspace

if TYPE_CHECKING:
    from harness.config.space import Cell, NamedSpace, Space

SEED = 2**63 - 1  # largest seed, of either sign
SPACES = Path(__file__).parent.parent / "search_spaces"


def parser(program: str, description: str | None, *, single: bool) -> Arguments:
    """The arguments of `harness.trial` (single) and `harness.tune`."""
    p = Arguments(program, description)
    p.add_argument(
        "--space",
        default="sat" if single else None,
        help="a module of search_spaces, see --list, or a study in a .toml file",
    )
    p.add_argument("--data", help="data set: digits (default), shapes, cifar10, ..., or a folder under the data root")
    p.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="fix a setting, e.g. epochs=5")
    p.add_argument(
        "--seed", type=whole(-SEED, SEED), default=0, help="seed of the search, or of the single trial (default 0)"
    )
    p.add_argument("--out", type=place, default="runs", help="folder or URI for everything written (default runs)")
    p.add_argument(
        "--data-root", type=place, help="folder or URI of the data sets (default $HARNESS_DATA, else ./data)"
    )
    p.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: a GPU if available)")
    p.add_argument("--quiet", action="store_true", help="print only the result")
    if single:
        p.add_argument("--cell", help="a cell of the space, or `all` (default: the first that is not a control)")
        p.add_argument("--test", action="store_true", help="measure on the test images")
    return p


def spaces() -> list[str]:
    return sorted(p.stem for p in SPACES.glob("*.py") if not p.stem.startswith("_"))


def summary(space: str) -> str:
    """First line of a space's docstring, read without importing it."""
    text = _docstring(SPACES / f"{space}.py")
    return text.partition("\n")[0]


def _docstring(file: Path) -> str:
    """The docstring of a module; in brackets why it cannot be read."""
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


def space(name: str) -> "Space":
    """Import a space by name, or read one from a file. Raises `UserError` with the nearest name, or what is wrong."""
    if name.endswith(".toml"):
        return study_of_file(name).space
    if name not in spaces():
        raise unknown_name("space", name, spaces())
    try:
        return importlib.import_module(f"search_spaces.{name}").SPACE
    except UserError as error:
        raise UserError(f"space {name!r} is wrong: {error}") from None
    except Exception as error:  # of anybody's code
        raise UserError(f"space {name!r} cannot be read: {_broken(SPACES / f'{name}.py', error)}") from error


def named_space(name: str) -> "NamedSpace":
    """A space by name, or of a file, with its question. Raises `UserError` as `space` does."""
    from harness.config.space import NamedSpace

    return study_of_file(name) if name.endswith(".toml") else NamedSpace(name, space(name), summary(name))


def study_of_file(name: str) -> "NamedSpace":
    """The study in a TOML file. Raises `UserError` with the line of what is wrong."""
    from harness.config import study_file

    return study_file.read(Path(name).expanduser())


def overrides(arguments: argparse.Namespace) -> dict[str, str]:
    """Settings of `--data` and every `--set path=value`: dotted path -> value. Raises `UserError` for bad syntax."""
    settings: dict[str, str] = {}
    for text in arguments.set:
        path, equals, value = text.partition("=")
        if not (path and equals):
            raise UserError(f"--set takes path=value, such as optim.lr=0.01, not {shown(text)}")
        settings[path.strip()] = value.strip()
    if arguments.data is not None:
        settings["data"] = arguments.data
    return settings


def workspace(arguments: argparse.Namespace) -> Workspace:
    """The workspace of parsed arguments; see `open_workspace`."""
    address = getattr(arguments, "address", None)
    return open_workspace(arguments.out, arguments.data_root, arguments.device, shared=bool(address))


def open_workspace(out: str, data_root: str | None, device_name: str | None, *, shared: bool = False) -> Workspace:
    """The workspace of an output folder and a data root: absolute paths, created and writable.

    data_root: by default $HARNESS_DATA, else ./data. shared: whether workers on other nodes use it too.
    """
    chosen = local_workspace(out, device(device_name))
    root = data_root or os.environ.get("HARNESS_DATA", "data")
    if "://" in root:
        data = scratch_folder() / f"data-{_uri_hash(root)}"
        chosen = dataclasses.replace(chosen, data=data, remote_data=root.rstrip("/"))
    else:
        chosen = dataclasses.replace(chosen, data=Path(root).absolute())
    copied = chosen.remote or chosen.remote_data or shared
    return dataclasses.replace(chosen, scratch=scratch_folder() if copied else None).writable()


def local_workspace(out: str, device: str = "cpu") -> Workspace:
    """The workspace of an output folder; for a URI, with a local copy on this node."""
    if "://" not in out:
        return Workspace(Path(out).absolute(), device=device)
    return Workspace(
        scratch_folder() / f"out-{_uri_hash(out)}", device=device, remote=out.rstrip("/"), scratch=scratch_folder()
    )


def scratch_folder() -> Path:
    """Folder for local copies on this node: $HARNESS_SCRATCH, else a folder of this user in the temporary folder."""
    default = Path(tempfile.gettempdir(), f"saliency-harness-{os.getuid()}")
    return Path(os.environ.get("HARNESS_SCRATCH") or default).absolute()


def _uri_hash(uri: str) -> str:
    return hashlib.sha256(uri.rstrip("/").encode()).hexdigest()[:12]


def device(requested: str | None) -> str:
    """The requested device, else a GPU if available. Raises `UserError` if it does not exist."""
    import torch

    if requested is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=requested)
    except (RuntimeError, AssertionError) as error:
        available = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        raise UserError(f"no device {requested!r} here; there are: {', '.join(available)}") from error
    return requested


def choose_cell(cells: Sequence["Cell"], name: str | None) -> "Cell":
    """The cell of that name, by default the first that is not a control. Raises `UserError` for an unknown name."""
    if name is None:
        return next((c for c in cells if not c.control), cells[0])
    by_name = {c.name: c for c in cells}
    if name not in by_name:
        raise unknown_name("cell", name, by_name)
    return by_name[name]
