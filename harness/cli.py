"""Shared command-line arguments, and look-up of spaces and cells before torch is imported."""

import argparse
import dataclasses
import hashlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.arguments import Arguments, place, whole
from harness.config.named_spaces import named_space, space, spaces, summary
from harness.errors import UserError, shown, unknown_name
from harness.storage import plugin_copies
from harness.storage.workspace import Workspace

if TYPE_CHECKING:
    from harness.config.space import Cell

__all__ = ["named_space", "space", "spaces", "summary"]

SEED = 2**63 - 1  # largest seed, of either sign


def parser(program: str, description: str | None, *, single: bool) -> Arguments:
    """The arguments of `harness.trial` (single) and `harness.tune`."""
    p = Arguments(program, description)
    p.add_argument(
        "--space",
        default="sat" if single else None,
        help="a space, see --list, a file my_space.py, or a study in a .toml file",
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


def use_kept_plugins(arguments: argparse.Namespace) -> None:
    """Find plug-ins that were edited, moved or sent among the copies under `--out`."""
    plugin_copies.use(local_workspace(arguments.out))


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
