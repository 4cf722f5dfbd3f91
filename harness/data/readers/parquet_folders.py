"""Find the parquet files of a data set's parts, in the layouts of the Hugging Face Hub.

`train-*.parquet` in the folder or its `data`; `train/*.parquet`; or either in one subfolder, named by a configuration.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from harness.errors import UserError

LAYOUT = "parquet files train-*.parquet and test-*.parquet (or val*-*.parquet)"

_NAME = re.compile(r"(train|test|val)[a-z]*(-.*)?\.parquet")
_PART = re.compile(r"(train|test|val)[a-z]*")
_PARTIAL = "partial-"  # of a folder of the Hub's own conversion that has the first gigabytes only
_SHARD = re.compile(r"-\d+-of-(\d+)")
_NUMBERED = re.compile(r"(\d{4,})\.parquet")

Shards = dict[str, list[Path]]  # train, test and val -> their files in order


def found(folder: Path) -> bool:
    """Whether there are any files of parts."""
    return next(_configurations(folder), None) is not None


def shards(folder: Path) -> Shards:
    """The files of each part. Raises `UserError` for several configurations, or if a file of a part is missing."""
    where = list(_configurations(folder))
    if len(where) > 1:
        names = ", ".join(repr(path.name) for path, _ in where)
        raise UserError(
            f"{str(folder)!r} holds several data sets, {names}; name one: --data {where[0][0].name}"
            f" --data-root {str(folder)!r}"
        )
    parts = where[0][1]
    for paths in parts.values():
        _check_complete(paths)
    return parts


def _configurations(folder: Path) -> Iterator[tuple[Path, Shards]]:
    """The folder with its shards; else those of its subfolders that have some."""
    for directory in (folder, folder / "data"):
        if parts := _in(directory):
            yield directory, parts
            return
    for directory in sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")):
        if parts := _in(directory):
            yield directory, parts


def _in(directory: Path) -> Shards:
    """The shards that lie in this folder, or in subfolders of it that are named by a part."""
    parts: Shards = {}
    for path in sorted(directory.glob("*.parquet")):
        if named := _NAME.fullmatch(path.name):
            parts.setdefault(named[1], []).append(path)
    if parts or not directory.is_dir():
        return parts
    for subfolder in sorted(p for p in directory.iterdir() if p.is_dir()):
        if (named := _PART.fullmatch(subfolder.name.removeprefix(_PARTIAL))) and any(subfolder.glob("*.parquet")):
            parts.setdefault(named[1], []).extend(sorted(subfolder.glob("*.parquet")))
    return parts


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
