"""Which files of a search trial go when nothing needs its weights: the weights, and the checkpoint of a stopped one.

Its result and scores per image stay. Whoever needs the weights later trains it again: on a CPU they come out the same
bit for bit.
"""

from collections.abc import Collection, Iterable, Mapping

from harness.storage.workspace import Workspace
from harness.trials import test_evaluations
from harness.trials.nets import CHECKPOINT, WEIGHTS

# Beginnings of names: what else the weights were measured for.
MEASURED = ("test.npz", "measuring-test", "evaluation-", test_evaluations.FOLDER)


def discardable(names: Collection[str]) -> list[str]:
    """Of the names in a trial's folder those of files to discard; none if it was tested, or evaluated by a command."""
    if any(name.startswith(MEASURED) for name in names):
        return []
    return [name for name in (WEIGHTS, CHECKPOINT) if name in names]


def discard(key: str, workspace: Workspace) -> None:
    """Discard the weights of a trial whose folder is on this machine."""
    folder = workspace.trial(key)
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    for name in discardable(names):
        workspace.remove(f"trials/{key}/{name}")


def discarded(keys: Iterable[str], sizes: Mapping[str, int]) -> dict[str, int]:
    """The files of these trials to discard and their bytes. sizes: those of all files, by `Workspace.sizes`."""
    chosen, names = set(keys), dict[str, set[str]]()
    for path in sizes:
        top, _, rest = path.partition("/")
        key, _, name = rest.partition("/")
        if top == "trials" and key in chosen:
            names.setdefault(key, set()).add(name)
    paths = [f"trials/{key}/{name}" for key in sorted(names) for name in discardable(names[key])]
    return {path: sizes[path] for path in paths}


def by_kind(sizes: Mapping[str, int]) -> dict[str, int]:
    """Bytes of an output folder by kind: trials, teachers, maps. sizes: as for `discarded`."""
    kinds = {"trials": "trials", "teachers": "teachers", "cache": "maps"}  # by folder
    totals = dict.fromkeys(kinds.values(), 0)
    for path, size in sizes.items():
        if kind := kinds.get(path.partition("/")[0]):
            totals[kind] += size
    return totals
