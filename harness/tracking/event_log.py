"""Append-only event log (JSON lines): the durable record from which the MLflow store is written.

An event concerns one run, by name: its start (`begin`: title, parent and tags), `params`, `metrics` ([name, value,
step]), `tags`, `files` ([path under the output folder, artifact folder]), `inputs` (data sets: [name, digest,
context]) and `status`. `time` is in milliseconds since 1970. The first line is a header with the id of the log and the
experiment.
"""

import json
import math
import os
import re
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypedDict, Unpack, cast

from harness.errors import SHOWN, UserError, shortened
from harness.storage.files import drop_partial_line

FOLDER = "track"  # under the output folder
_LOG = re.compile(r"\w{1,64}")  # an id of a log, which stands in filters of MLflow
STATUSES = ("RUNNING", "FINISHED", "FAILED", "KILLED")
Metric = tuple[str, float, int]  # name, value, step


class Begin(TypedDict):
    """The start of a run. parent: name of the run that it is nested in."""

    title: str
    parent: str | None
    tags: dict[str, str]


class Content(TypedDict, total=False):
    """What an event says of its run."""

    begin: Begin
    params: dict[str, str]
    metrics: list[Metric]
    tags: dict[str, str]
    files: list[tuple[str, str]]
    inputs: list[tuple[str, str, str]]
    status: str


class Event(Content):
    """Content, with the run and the time."""

    run: str
    time: int


class Header(TypedDict):
    """The first line of a log."""

    log: str
    experiment: str


class EventLog:
    """Append-only file of events, with one writer and any number of concurrent readers."""

    def __init__(self, path: Path, experiment: str):
        """Open or create the log at `path`, for runs of this MLflow experiment. Raises `UserError` if it cannot."""
        self.path = path
        try:
            drop_partial_line(path)
            if not path.exists() or not path.stat().st_size:
                path.parent.mkdir(parents=True, exist_ok=True)
                self._append({"log": uuid.uuid4().hex[:12], "experiment": experiment})
            read_header(path)
        except OSError as error:
            raise UserError(f"cannot open the event log {str(path)!r}: {error.strerror}") from None

    def append(self, run: str, **content: Unpack[Content]) -> None:
        """Append an event of a run and sync it to disk. Raises `UserError` if it cannot be written."""
        self.extend([{"run": run, "time": int(time.time() * 1000), **{k: v for k, v in content.items() if v}}])

    def extend(self, events: Iterable[Mapping[str, object]]) -> None:
        """Append events, with the times that they have, all or none. Raises `UserError` if they cannot be written."""
        try:
            if lines := list(events):
                self._append(*lines)
        except OSError as error:
            raise UserError(f"cannot write {str(self.path)!r}: {error.strerror}; existing data is unchanged") from None

    def _append(self, *lines: Mapping[str, object]) -> None:
        size = self.path.stat().st_size if self.path.exists() else 0
        try:
            with open(self.path, "ab") as file:
                file.writelines(map(_encoded, lines))
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            if self.path.exists():
                os.truncate(self.path, size)  # drop the partial line that a full disk left
            raise


def read_header(path: Path) -> Header:
    """The header: id (`log`) and `experiment`. Raises `UserError` if the file is no event log."""
    for event, _ in _lines(path, 0):
        header = event if isinstance(event, dict) else {}
        if _LOG.fullmatch(str(header.get("log"))) and isinstance(header.get("experiment"), str):
            return {"log": str(header["log"]), "experiment": header["experiment"]}
        break
    raise UserError(f"{str(path)!r} is not an event log; move it away to start anew")


def first_event(path: Path) -> int:
    """Byte offset of the first event, after the header."""
    return next((end for _, end in _lines(path, 0)), 0)


def read_events(path: Path, start: int = 0) -> Iterator[tuple[Event, int]]:
    """Events from a byte offset on, each with the offset after it. Raises `UserError` for a damaged line."""
    return _lines(path, start or first_event(path))


def titles(path: Path) -> dict[str, str]:
    """The titles of the runs by name. Raises `UserError` for a damaged line."""
    begun = {}
    for event, _ in read_events(path):
        begin = event.get("begin") if isinstance(event, dict) else None
        if isinstance(begin, dict):
            begun[str(event.get("run"))] = str(begin.get("title"))
    return begun


def checked(event: Any) -> Event:
    """An event as it was read. Raises `UserError` for one of the wrong form, which a store would never take."""
    try:
        if _is_event(event):
            json.dumps(event, ensure_ascii=False).encode()
            return cast(Event, event)
    except (ValueError, OverflowError):  # halves of letters; a number that is too large
        pass
    raise UserError(f"it is no event: {shortened(repr(event), SHOWN)}")


def _is_event(event: Any) -> bool:
    if not (isinstance(event, dict) and isinstance(event.get("run"), str) and _is_whole(event.get("time"))):
        return False
    begin = event.get("begin", {"title": "", "parent": None, "tags": {}})
    return (
        isinstance(begin, dict)
        and isinstance(begin.get("title"), str)
        and isinstance(begin.get("parent", 0), str | None)
        and all(_are_texts(of) for of in (begin.get("tags"), event.get("params", {}), event.get("tags", {})))
        and _are_rows(event.get("metrics", []), str, int | float, int)
        and all(_is_whole(step) and math.isfinite(value) for _, value, step in event.get("metrics", []))
        and _are_rows(event.get("files", []), str, str)
        and _are_rows(event.get("inputs", []), str, str, str)
        and event.get("status", STATUSES[0]) in STATUSES
    )


def _is_whole(number: Any) -> bool:
    return isinstance(number, int) and abs(number) < 2**63  # as databases store it


def _are_texts(values: Any) -> bool:
    return isinstance(values, dict) and all(isinstance(value, str) for value in values.values())


def _are_rows(rows: Any, *types: Any) -> bool:
    return isinstance(rows, list) and all(
        isinstance(row, list) and len(row) == len(types) and all(map(isinstance, row, types)) for row in rows
    )


def _encoded(line: Mapping[str, object]) -> bytes:
    """A line of a log. What a text has of no letter, such as bytes of a file's name that are not UTF-8, becomes `?`."""
    text = json.dumps(line, separators=(",", ":"), ensure_ascii=False)
    return text.encode(errors="replace") + b"\n"


def _lines(path: Path, start: int) -> Iterator[tuple[Any, int]]:
    with open(path, "rb") as file:
        file.seek(start)
        for line in file:
            if not line.endswith(b"\n"):  # still being written
                return
            start += len(line)
            try:
                yield json.loads(line), start
            except ValueError:
                raise UserError(f"{str(path)!r} is damaged before byte {start}; move it away to start anew") from None
