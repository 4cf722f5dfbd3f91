"""What the commands share: their arguments, and names looked up before anything heavy is imported."""

import argparse
import ast
import dataclasses
import hashlib
import importlib
import os
import tempfile
from pathlib import Path

from harness.errors import Mistake, unknown
from harness.place import Place

SPACES = Path(__file__).parent.parent / "search_spaces"


def parser(program: str, description: str, *, single: bool) -> argparse.ArgumentParser:
    """The arguments of `harness.trial` (single) and `harness.tune`."""
    p = argparse.ArgumentParser(
        prog=f"python -m {program}", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--space", default="sat" if single else None, help="a module of search_spaces; see --list")
    p.add_argument("--data", help="data set: digits (default), shapes, cifar10, ..., or a folder under the data root")
    p.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="fix a setting, e.g. epochs=5")
    p.add_argument("--seed", type=int, default=0, help="seed of the search, or of the single trial (default 0)")
    p.add_argument("--out", default="runs", help="folder or URI for everything written (default runs)")
    p.add_argument("--data-root", help="folder or URI of the data sets (default $HARNESS_DATA, else ./data)")
    p.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: a GPU where there is one)")
    p.add_argument("--quiet", action="store_true", help="print only the result")
    if single:
        p.add_argument("--cell", help="a cell of the space, or `all` (default: the first that is no control)")
        p.add_argument("--test", action="store_true", help="measure on the test images")
    return p


def spaces() -> list[str]:
    return sorted(p.stem for p in SPACES.glob("*.py") if not p.stem.startswith("_"))


def about(space: str) -> str:
    """The first line of a space's docstring, read without importing it."""
    text = ast.get_docstring(ast.parse((SPACES / f"{space}.py").read_text())) or ""
    return text.partition("\n")[0]


def space(name: str):
    """The space of that module name. Raises `Mistake` with the nearest name."""
    if name not in spaces():
        raise unknown("space", name, spaces())
    return importlib.import_module(f"search_spaces.{name}").SPACE


def overrides(arguments: argparse.Namespace) -> dict[str, object]:
    """`--data` and every `--set path=value`, as dotted paths."""
    settings: dict[str, object] = {}
    for text in arguments.set:
        path, equals, value = text.partition("=")
        if not (path and equals):
            raise Mistake(f"--set takes path=value, such as optim.lr=0.01, not {text!r}")
        settings[path.strip()] = value.strip()
    if arguments.data:
        settings["data"] = arguments.data
    return settings


def place(arguments: argparse.Namespace) -> Place:
    """Where to write, read and compute; absolute, and writable."""
    chosen = local(arguments.out, device(arguments.device))
    root = arguments.data_root or os.environ.get("HARNESS_DATA", "data")
    near = scratch() if chosen.store or "://" in root or getattr(arguments, "address", None) else None
    if "://" in root:
        chosen = dataclasses.replace(chosen, data=near / f"data-{_named(root)}", source=root.rstrip("/"))
    else:
        chosen = dataclasses.replace(chosen, data=Path(root).absolute())
    return dataclasses.replace(chosen, near=near).writable()


def local(out: str, device: str = "cpu") -> Place:
    """The place of an output folder, or this node's copy of one that lies at a URI."""
    if "://" not in out:
        return Place(Path(out).absolute(), device=device)
    return Place(scratch() / f"out-{_named(out)}", device=device, store=out.rstrip("/"), near=scratch())


def scratch() -> Path:
    """The folder of this node for copies: $HARNESS_SCRATCH, else one of this user's among the temporary ones."""
    mine = Path(tempfile.gettempdir(), f"saliency-harness-{os.getuid()}")
    return Path(os.environ.get("HARNESS_SCRATCH") or mine).absolute()


def _named(uri: str) -> str:
    return hashlib.sha256(uri.rstrip("/").encode()).hexdigest()[:12]


def device(wanted: str | None) -> str:
    """The device asked for, else a GPU where there is one. Raises `Mistake` where it is not there."""
    import torch

    if wanted is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=wanted)
    except (RuntimeError, AssertionError) as error:
        there = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        raise Mistake(f"no device {wanted!r} here; there are: {', '.join(there)}") from error
    return wanted


def chosen(cells: list, name: str | None):
    """The cell of that name; without a name, the first that is no control."""
    if name is None:
        return next((c for c in cells if not c.control), cells[0])
    by_name = {c.name: c for c in cells}
    if name not in by_name:
        raise unknown("cell", name, by_name)
    return by_name[name]
