"""Background delivery of an event log to an MLflow store, with retries.

Every event reaches the store once, in order and with its original time, even if the store is slow, fails for a while,
or is replaced by a new one. What it refuses is set aside, so that the rest goes on, and is sent again at the end and by
every later delivery.
"""

import contextlib
import hashlib
import itertools
import json
import math
import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from harness.errors import UserError, one_line, redacted, shell_command
from harness.storage import files
from harness.storage.sealed_json import write_json
from harness.storage.workspace import Workspace
from harness.tracking import event_log
from harness.tracking.mlflow_client import check_writable, default_uri, open_writer, sqlite_file, sqlite_uri
from harness.tracking.mlflow_writer import MlflowWriter, UploadFailed
from harness.tracking.refusals import Refusals, is_final, reason

RETRY_PAUSES = (0.2, 0.5, 1.0, 2.0, 5.0)  # seconds before each retry; the last one repeats
UPLOAD_TRIES = 5  # of a file, at a store that answers otherwise: a gateway may cut off a large one without an answer
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
        self._uri, self._log, self._workspace = uri, log, workspace
        self._durable = lambda: durable(log.relative_to(workspace.out).as_posix())
        self.writer = _open_writer(uri, log, workspace)
        self._mark = _mark(uri, log, workspace)
        # A new store gets everything.
        delivered, self._refused = _position(self._mark) if self.writer.runs else (0, Refusals())
        self._at = self._marked = delivered or event_log.first_event(log)
        self._progress = 0  # events that were sent, also again, and uploads that failed
        self._last_error = ""
        self._ending = False
        self._retried = not self._refused.count()  # whether what an earlier delivery set aside was sent again
        self._thread = threading.Thread(target=self._work, name="deliver", daemon=True)

    def __enter__(self) -> "Delivery":
        self._thread.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ending = True  # events that are not delivered in time stay in the log
        self._thread.join(PATIENCE_SECONDS)

    def caught_up(self) -> bool:
        """Wait until all current events were sent. False if the store accepts none for `PATIENCE_SECONDS`."""
        end, progress, since = self._log.stat().st_size, -1, time.monotonic()
        while self._at < end or not self._retried:
            if self._progress > progress:
                progress, since = self._progress, time.monotonic()
            if time.monotonic() - since > PATIENCE_SECONDS or not self._thread.is_alive():
                return False
            time.sleep(0.02)
        return True

    def failure(self) -> str:
        """Error message about undelivered and refused events, with a remedy; "" if there are none."""
        store, problems = f"the tracking store {redacted(self._uri)!r}", []
        if left := sum(1 for _ in event_log.read_events(self._log, self._at)):
            problems.append(
                f"failed: {self._last_error or 'it takes too long'}; {left} events wait in {str(self._log)!r}"
            )
        if number := self._refused.count():
            named = self._refused.named(event_log.titles(self._log))
            problems.append(f"refused {number} writes, which are kept: {named}")
        return f"{store} {', and '.join(problems)}; send them by: {self._command()}" if problems else ""

    def _command(self) -> str:
        """The command that delivers the log, for a shell in any folder."""
        words = ["python", "-m", "harness.deliver", "--out", self._workspace.remote or str(self._workspace.out)]
        by_default = os.environ.get("MLFLOW_TRACKING_URI") if self._workspace.remote else default_uri(self._workspace)
        if self._uri != by_default:
            relative = self._uri.startswith("sqlite:") and not sqlite_file(self._uri).is_absolute()
            words += ["--tracking-uri", sqlite_uri(sqlite_file(self._uri).absolute()) if relative else self._uri]
        return shell_command(*words)

    def _work(self) -> None:
        try:
            self._send()
        except (UserError, OSError) as error:  # a damaged log, an output folder that is gone
            self._last_error = one_line(error)

    def _send(self) -> None:
        going = self._send_again()
        self._retried = True
        before = self._refused.count()
        while going and not (self._ending and self._at >= min(self._log.stat().st_size, self._durable())):
            saved = time.monotonic()
            for event, end in event_log.read_events(self._log, self._at):
                if end > self._durable() or not (going := self._deliver(event, self._at, self._refused)):
                    break
                self._at = end
                if time.monotonic() - saved > 1:
                    saved = self._save_position()
            self._save_position()
            if not self._ending:
                time.sleep(POLL_SECONDS)
        if going and self._refused.count() > before:
            self._send_again()

    def _send_again(self) -> bool:
        """Send what was refused once more, and all that followed it of the same runs, whose order counts.

        False if the store did not answer until the end; what was set aside then stays so.
        """
        earlier, again = self._refused.runs, Refusals()
        start = min((refused.at for refused in earlier.values()), default=self._at)
        for event, end in event_log.read_events(self._log, start):
            if end > self._at:
                break
            run = _run(event)
            if run in earlier and start >= earlier[run].at and not self._deliver(event, start, again):
                return False
            start = end
        if earlier:
            self._refused = again
            self._save_position(force=True)
        return True

    def _save_position(self, force: bool = False) -> float:
        """Store how far the log is delivered. It may lag, since writes are idempotent. Returns the time."""
        if self._at > self._marked or force:
            write_json(self._mark, {"at": self._at, "refused": self._refused.as_json()})
            self._marked = self._at
        return time.monotonic()

    def _deliver(self, event: event_log.Event, at: int, refused: Refusals) -> bool:
        """Send an event that begins at this byte, with retries until the end of the sweep.

        False if it was not sent. What the store refuses of it is added to `refused`.
        """
        aside: dict[str, str] = {}
        uploads: Counter[str] = Counter()
        for tries in itertools.count():
            try:
                if tries:
                    self.writer.find_runs()  # a failed request may have taken effect
                refused.add_files(_run(event), at, aside | self.writer.write(event, aside))
                self._progress += 1
                return True
            except UploadFailed as error:
                self._progress += 1  # the store answers, and no file is tried for ever, however long each try takes
                uploads[error.file] += 1
                if uploads[error.file] >= UPLOAD_TRIES:
                    aside[error.file] = str(error)
                self._last_error = str(error)
            except Exception as error:  # database drivers raise their own types
                if is_final(error):
                    refused.add(_run(event), at, reason(error))
                    self._progress += 1
                    return True
                self._last_error = one_line(error)
            if self._ending:
                break
            time.sleep(RETRY_PAUSES[min(tries, len(RETRY_PAUSES) - 1)])
        return False


def deliver_all(uri: str, log: Path, workspace: Workspace) -> Delivery:
    """Deliver a whole log; `failure` of the result says whether the store took all of it."""
    with Delivery(uri, log, workspace) as delivery:
        delivery.caught_up()
    return delivery


def _run(event: event_log.Event) -> str:
    """The name of an event's run; "" for an event of the wrong form."""
    return str(event.get("run", "")) if isinstance(event, dict) else ""


def _mark(uri: str, log: Path, workspace: Workspace) -> Path:
    """The file that says how far a log was delivered to a store. It goes with an output folder that has both."""
    named = redacted(uri)
    if uri.startswith("sqlite:"):
        file = sqlite_file(uri).absolute()
        inside = file.is_relative_to(workspace.out)
        named = f"sqlite:{file.relative_to(workspace.out).as_posix()}" if inside else f"sqlite:///{file}"
    mark, before = (log.with_suffix(f".{_digest(text)}.delivered") for text in (named, redacted(uri)))
    return before if before.exists() and not mark.exists() else mark


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _position(mark: Path) -> tuple[int, Refusals]:
    """How far a log was delivered, and what was refused of it."""
    try:
        stored = json.loads(mark.read_text(encoding="utf-8"))
        return int(stored["at"]), Refusals.from_json(stored.get("refused", {}))
    except (OSError, ValueError, KeyError, TypeError):  # deliver again from the start: writes are idempotent
        return 0, Refusals()


def _open_writer(uri: str, log: Path, workspace: Workspace) -> MlflowWriter:
    file = sqlite_file(uri) if uri.startswith("sqlite:") else None
    try:  # MLflow cannot make the tables of one file in two processes at once
        with files.locked(file.with_name(f".{file.name}.lock")) if file else contextlib.nullcontext():
            return MlflowWriter(open_writer(uri), uri, log, workspace)
    except UserError:
        raise
    except Exception as error:  # database drivers raise their own types
        raise UserError(f"cannot use the tracking store {redacted(uri)!r}: {one_line(error)}") from None
