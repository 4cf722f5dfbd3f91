"""Data that are given to `harness.api`: a name, or data of one's own, which are stored beside the results."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from harness import cli
from harness.data.own import OwnData
from harness.errors import UserError, redacted
from harness.storage.workspace import Workspace
from methods import Setting

Folder = str | Path


@dataclass(frozen=True)
class Placed:
    """Settings that name the data, none if no data are given, and the data root; None leaves it to its default."""

    settings: Mapping[str, Setting] = field(default_factory=dict)
    root: str | None = None

    @property
    def name(self) -> str:
        return str(self.settings.get("data", ""))


def placed(
    data: str | OwnData | None, out: Folder, data_root: Folder | None, given: Iterable[Mapping[str, Setting]] = ()
) -> Placed:
    """Store data of one's own, below OUT/data by default.

    They keep their size, and a fifth is the test part if they have none, unless one of `given` sets it otherwise.
    """
    root = None if data_root is None else str(data_root)
    if data is None:
        return Placed(root=root)
    if isinstance(data, str):
        return Placed({"data": data}, _root(out, root, data))
    if not isinstance(data, OwnData):
        raise UserError(
            f"data is a name, or made by Data.from_arrays or Data.from_dataset, not a {type(data).__name__}"
        )
    root = str(_own_root(out)) if root is None else root
    if "://" in root:
        raise UserError(f"data of your own are stored in a folder that all nodes see, not at {redacted(root)!r}")
    name = data.stored(Workspace(Path(out).absolute(), Path(root).absolute()))
    defaults: dict[str, Setting] = {"data.size": 0} | ({"data.test_share": 0.2} if data.test is None else {})
    given = list(given)
    kept = {path: value for path, value in defaults.items() if not any(path in settings for settings in given)}
    return Placed({"data": name, **kept}, root)


def workspace(out: Folder, root: str | None, device: str | None, data: str) -> Workspace:
    """The workspace of these folders. data: name of the data set, which may be one that `placed` stored."""
    return cli.open_workspace(str(out), _root(out, root, data), device)


def _root(out: Folder, root: str | None, data: str) -> str | None:
    """The data root of a data set by name: OUT/data if it was stored there and no other is given."""
    stored_here = root is None and "://" not in str(out) and (_own_root(out) / data).is_dir()
    return str(_own_root(out)) if stored_here else root


def _own_root(out: Folder) -> Path:
    return Path(out) / "data"
