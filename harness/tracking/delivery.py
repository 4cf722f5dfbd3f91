"""Background delivery of an event log to an MLflow store, with retries.

Every event reaches the store once, in order and with its original time, even if the store is slow, fails for a while,
or is replaced by a new one.
"""

import hashlib
import itertools
import json
import math
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from harness.errors import UserError, one_line, redacted
from harness.storage.sealed_json import write_json
from harness.storage.workspace import Workspace
from harness.tracking import event_log
from harness.tracking.mlflow_client import check_writable, open_writer
from harness.tracking.mlflow_writer import PERMANENT_ERRORS, MlflowWriter

RETRY_PAUSES = (0.2, 0.5, 1.0, 2.0, 5.0)  # seconds before each retry; the last one repeats
PATIENCE_SECONDS = 60.0  # timeout at the end of a sweep for a store that accepts nothing
POLL_SECONDS = 0.2  # between two reads of a log without new events


class Delivery:
    """Thread that writes the events of a log to a store, starting where the last delivery to it ended."""

    def __init__(
        self, uri: str, log: Path, workspace: Workspace, durable: Callable[[str], float] = lambda name: math.inf
    ):
        """Open the store at `uri`; a new SQLite file is created. Raises `UserError` if it cannot be reached.

        durable(name): the byte of the log up to which events may be delivered. Later ones could be lost with the
        driver's machine, and would then be delivered again with another time.
        """
        check_writable(uri)
        self._uri, self._log = uri, log
        self._durable = lambda: durable(log.relative_to(workspace.out).as_posix())
        self.writer = _open_writer(uri, log, workspace)
        self._mark = log.with_suffix(f".{hashlib.sha256(redacted(uri).encode()).hexdigest()[:8]}.delivered")
        delivered = _position(self._mark) if self.writer.runs else 0  # a new store gets everything
        self._at = self._marked = delivered or event_log.first_event(log)
        self._refused: list[str] = []
        self._last_error = ""
        self._ending = False
        self._thread = threading.Thread(target=self._work, name="deliver", daemon=True)

    def __enter__(self) -> "Delivery":
        self._thread.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ending = True  # events that are not delivered in time stay in the log
        self._thread.join(PATIENCE_SECONDS)

    def caught_up(self) -> bool:
        """Wait until all current events are delivered. False if the store accepts none for `PATIENCE_SECONDS`."""
        end, at, since = self._log.stat().st_size, -1, time.monotonic()
        while self._at < end:
            if self._at > at:
                at, since = self._at, time.monotonic()
            if time.monotonic() - since > PATIENCE_SECONDS or not self._thread.is_alive():
                return False
            time.sleep(0.02)
        return True

    def failure(self) -> str:
        """Error message about undelivered or rejected events, with a remedy; "" if there are none."""
        left = sum(1 for _ in event_log.read_events(self._log, self._at))
        if left:
            return (
                f"the tracking store {redacted(self._uri)!r} failed: {self._last_error or 'it takes too long'};"
                f" {left} events wait in {str(self._log)!r}, send them by: python -m harness.deliver"
            )
        if self._refused:
            events = f"{len(self._refused)} events, the first one: {self._refused[0]}"
            return f"the tracking store {redacted(self._uri)!r} refused {events}"
        return ""

    def _work(self) -> None:
        delivered = True
        while delivered and not (self._ending and self._at >= min(self._log.stat().st_size, self._durable())):
            saved = time.monotonic()
            for event, end in event_log.read_events(self._log, self._at):
                if end > self._durable() or not (delivered := self._deliver(event)):
                    break
                self._at = end
                if time.monotonic() - saved > 1:
                    saved = self._save_position()
            self._save_position()
            if not self._ending:
                time.sleep(POLL_SECONDS)

    def _save_position(self) -> float:
        """Store how far the log is delivered. It may lag, since writes are idempotent. Returns the time."""
        if self._at > self._marked:
            write_json(self._mark, {"at": self._at})
            self._marked = self._at
        return time.monotonic()

    def _deliver(self, event: event_log.Event) -> bool:
        """Write an event, with retries until the end of the sweep. False if it was not delivered."""
        for tries in itertools.count():
            try:
                if tries:
                    self.writer.find_runs()  # a failed request may have taken effect
                self.writer.write(event)
                return True
            except Exception as error:  # database drivers raise their own types
                if isinstance(error, LookupError) or getattr(error, "error_code", "") in PERMANENT_ERRORS:
                    self._refused.append(one_line(error))
                    return True
                self._last_error = one_line(error)
            if self._ending:
                break
            time.sleep(RETRY_PAUSES[min(tries, len(RETRY_PAUSES) - 1)])
        return False


def deliver_all(uri: str, log: Path, workspace: Workspace) -> Delivery:
    """Deliver a whole log. Raises `UserError` if the store does not accept it."""
    with Delivery(uri, log, workspace) as delivery:
        delivery.caught_up()
    if failure := delivery.failure():
        raise UserError(failure)
    return delivery


def _position(mark: Path) -> int:
    try:
        return int(json.loads(mark.read_text())["at"])
    except (OSError, ValueError, KeyError, TypeError):  # deliver again from the start: writes are idempotent
        return 0


def _open_writer(uri: str, log: Path, workspace: Workspace) -> MlflowWriter:
    try:
        return MlflowWriter(open_writer(uri), uri, log, workspace)
    except UserError:
        raise
    except Exception as error:  # database drivers raise their own types
        raise UserError(f"cannot use the tracking store {redacted(uri)!r}: {one_line(error)}") from None
