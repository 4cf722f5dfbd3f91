"""What happened in a sweep, line by line on disk before anybody is told: the tracking store learns it from here.

An event says something of one run, by its name: that it begins (`begin`: its title, parent and tags), its `params`,
`metrics` ([name, value, step]), `tags` and `files` ([path under the output folder, folder in the store]), and how it
stands (`status`). `time` is in milliseconds since 1970; the first line names the log itself.
"""

import json
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from harness.errors import Mistake
from harness.place import only_whole_lines

FOLDER = "track"  # under the output folder
Event = dict[str, object]


class Log:
    """An append-only file of events. One process writes it, any may read it meanwhile."""

    def __init__(self, path: Path, experiment: str):
        """Open the log at `path`, begun if there is none: of runs that belong to this MLflow experiment."""
        self.path = path
        try:
            only_whole_lines(path)
            if not path.exists() or not path.stat().st_size:
                path.parent.mkdir(parents=True, exist_ok=True)
                self._append({"log": uuid.uuid4().hex[:12], "experiment": experiment})
            head(path)
        except OSError as error:
            raise Mistake(f"cannot keep what happens in {str(path)!r}: {error.strerror}") from None

    def tell(self, run: str, **event: object) -> None:
        """Add an event of that run. It is on disk when this returns. Raises `Mistake` where it cannot be."""
        try:
            self._append({"run": run, "time": int(time.time() * 1000), **{k: v for k, v in event.items() if v}})
        except OSError as error:
            raise Mistake(
                f"cannot write {str(self.path)!r}: {error.strerror}; what was there before is untouched"
            ) from None

    def _append(self, event: Event) -> None:
        size = self.path.stat().st_size if self.path.exists() else 0
        try:
            with open(self.path, "ab") as file:
                file.write(json.dumps(event, separators=(",", ":")).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            if self.path.exists():
                os.truncate(self.path, size)  # the half of a line that a full disk took
            raise


def head(path: Path) -> Event:
    """Which log it is (`log`), and of which experiment. Raises `Mistake` where it is none."""
    for event, _ in _lines(path, 0):
        if "log" in event:
            return event
        break
    raise Mistake(f"{str(path)!r} is no log of events; move it away to start anew")


def first(path: Path) -> int:
    """The position of the first event of a run."""
    return next((end for _, end in _lines(path, 0)), 0)


def read(path: Path, start: int = 0) -> Iterator[tuple[Event, int]]:
    """The runs' events from a position on, each with the position after it. Raises `Mistake` for a damaged line."""
    return _lines(path, start or first(path))


def _lines(path: Path, start: int) -> Iterator[tuple[Event, int]]:
    with open(path, "rb") as file:
        file.seek(start)
        for line in file:
            if not line.endswith(b"\n"):  # it is being written
                return
            start += len(line)
            try:
                yield json.loads(line), start
            except ValueError:
                raise Mistake(f"{str(path)!r} is damaged before byte {start}; move it away to start anew") from None
