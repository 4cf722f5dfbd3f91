"""Find the parquet files of a data set's parts, in the layouts of the Hugging Face Hub.

`train-*.parquet` in the folder or its `data`; `train/*.parquet`; or either in one subfolder, named by a configuration.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from harness.data.readers.common import PART, the_only
from harness.errors import UserError, nearest

LAYOUT = "parquet files train-*.parquet and test-*.parquet (or val*-*.parquet)"

_NAME = re.compile(rf"(?P<name>{PART.pattern})(-.*)?\.parquet")
_PARTIAL = "partial-"  # of a folder of the Hub's own conversion that has the first gigabytes only
_SHARD = re.compile(r"-\d+-of-(\d+)")
_NUMBERED = re.compile(r"(\d{4,})\.parquet")

Shards = dict[str, list[Path]]  # train, test and val -> their files in order
Named = dict[str, Shards]  # train, test and val -> the names that the part has, such as validation -> their files


def found(folder: Path) -> bool:
    """Whether there are any files of parts."""
    return next(_configurations(folder), None) is not None


def shards(folder: Path) -> Shards:
    """The files of each part. Raises `UserError` for several configurations, or if a file of a part is missing."""
    where = list(_configurations(folder))
    if len(where) > 1:
        raise UserError(
            f"{str(folder)!r} holds several data sets; name one: --data {where[0][0].name} --data-root"
            f" {str(folder)!r} ({nearest('', (path.name for path, _ in where))})"
        )
    directory, named = where[0]
    parts = {part: the_only(directory, files) for part, files in named.items()}
    for paths in parts.values():
        _check_complete(paths)
    return parts


def _configurations(folder: Path) -> Iterator[tuple[Path, Named]]:
    """The folder with its shards; else those of its subfolders that have some."""
    for directory in (folder, folder / "data"):
        if parts := _in(directory):
            yield directory, parts
            return
    for directory in sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")):
        if parts := _in(directory):
            yield directory, parts


def _in(directory: Path) -> Named:
    """The shards that lie in this folder, or in subfolders of it that are named by a part."""
    parts: Named = {}
    for path in _parquet(directory):
        if named := _NAME.fullmatch(path.name):
            parts.setdefault(named[2], {}).setdefault(named["name"], []).append(path)
    if parts or not directory.is_dir():
        return parts
    for subfolder in sorted(p for p in directory.iterdir() if p.is_dir()):
        if (named := PART.fullmatch(subfolder.name.removeprefix(_PARTIAL))) and (files := _parquet(subfolder)):
            parts.setdefault(named[1], {})[subfolder.name] = files
    return parts


def _parquet(directory: Path) -> list[Path]:
    return sorted(path for path in directory.glob("*.parquet") if not path.name.startswith("."))  # ._x is macOS's


def _check_complete(paths: list[Path]) -> None:
    folder = paths[0].parent
    if folder.name.startswith(_PARTIAL):
        raise UserError(f"{str(folder)!r} is the part that the Hub converted of a larger data set; download its files")
    counts = {int(numbered[1]) for path in paths if (numbered := _SHARD.search(path.name))}
    if counts and counts != {len(paths)}:
        raise UserError(f"{str(folder)!r} has {len(paths)} files like {paths[0].name!r}, not {max(counts)}")
    numbers = [int(numbered[1]) for path in paths if (numbered := _NUMBERED.fullmatch(path.name))]
    if numbers and numbers != list(range(len(numbers))):
        raise UserError(f"{str(folder)!r} has {len(numbers)} numbered files, of which the last is {paths[-1].name!r}")
