"""Count of a net's measurements on the test images: a file for each, in the folder of its results.

So two commands that measure one net at the same time, on whatever nodes, are both counted: no file has two writers.
"""

import time
import uuid
from pathlib import Path

from harness.storage.files import write

FOLDER = "test-evaluations"


def count(folder: Path, recorded: int = 0) -> int:
    """The number of test evaluations of the net whose results are in `folder`.

    recorded: the number in a record there, which is all that there is of those that earlier versions counted.
    """
    files = (folder / FOLDER).glob("*")
    return max(recorded, sum(not file.name.startswith(".") for file in files))


def record(folder: Path, recorded: int = 0) -> int:
    """Count one more test evaluation, before it begins. recorded: see `count`. Returns the number of all."""
    if count(folder) < recorded:
        for number in range(recorded):
            _add(folder, f"earlier-{number}")
    _add(folder, uuid.uuid4().hex)
    return count(folder, recorded)


def _add(folder: Path, name: str) -> None:
    began = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    write(folder / FOLDER / name, lambda temporary: temporary.write_text(f"{began}\n", encoding="utf-8"))
