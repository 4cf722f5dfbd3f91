"""The one module that writes to MLflow: it passes on what the logs of events hold.

    python -m harness.deliver --tracking-uri http://tracking.example:5000

A store may be slow, stop and come back, or be another one than before: what a log holds reaches it once and in order,
with the time at which it happened. A sweep does this by itself while it runs; the command does it for every log of an
output folder, such as one whose server had gone, or one made on a cluster and to be looked at on a laptop.
"""

import argparse
import hashlib
import http.client
import itertools
import json
import math
import os
import sys
import threading
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType

from harness import cli, events
from harness.errors import Mistake, exit_status, one_line, redacted, without_user
from harness.place import Place, write_json

for _name, _value in {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",  # its migrations announce themselves
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # who has a log can ask again, and say meanwhile what is wrong
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}.items():
    os.environ.setdefault(_name, _value)

BATCH = 1000  # metrics that one call may hold
PAUSES = (0.2, 0.5, 1.0, 2.0, 5.0)  # seconds before a store that failed is asked again, the last one from then on
PATIENCE = 60.0  # seconds that the end of a sweep waits for a store that takes nothing
IDLE = 0.2  # seconds between two looks at a log that holds nothing new
# What the store will never take: asked again it would say the same.
REFUSALS = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS", "INVALID_STATE")


class Store:
    """An MLflow store as the runs of one log see it: by their names, and every act may be done twice."""

    def __init__(self, client, uri: str, log: Path, place: Place):
        """Find the log's experiment, made if there is none, and those of its runs that the store has."""
        self._client, self._place, self._uri = client, place, uri
        about = events.head(log)
        self.log, self.experiment = str(about["log"]), self._experiment(str(about["experiment"]))
        self.runs: dict[str, str] = {}  # name -> run id
        self.recall()

    def _experiment(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        if found is not None:
            return found.experiment_id
        made = self._client.create_experiment(name, artifact_location=self._files())
        about = "A run for every sweep; in it one for every cell; in that its trials and the seeds of its winner."
        self._client.set_experiment_tag(made, "mlflow.note.content", about)
        return made

    def _files(self) -> str | None:
        """Where runs keep their files: of a database in the output folder, which outlives this machine or not as the
        database itself does; beside it where the output is at a URI. None for what a server decides."""
        if not self._uri.startswith("sqlite"):
            return None
        beside = Path(self._uri.partition(":///")[2].partition("?")[0]).absolute().parent
        return str((beside if self._place.store else self._place.out) / "artifacts")

    def recall(self) -> None:
        """Find the log's runs."""
        mine, token = f"tags.`harness.log` = '{self.log}'", None
        while True:
            page = self._client.search_runs([self.experiment], mine, max_results=1000, page_token=token)
            for run in page:
                self.runs[run.data.tags["harness.event"]] = run.info.run_id
            if not (token := page.token):
                return

    def take(self, event: events.Event) -> None:
        """Do what the event says. Done again, after a failure in its midst, it leaves the same."""
        from mlflow.entities import Metric, Param, RunTag

        name, at = str(event["run"]), int(event["time"])
        if "begin" in event and name not in self.runs:
            self.runs[name] = self._begun(name, at, event["begin"])
        run = self.runs.get(name)
        if run is None:
            raise LookupError(f"no run {name!r}; somebody deleted it")
        metrics = [Metric(key, value, at, step) for key, value, step in event.get("metrics", ())]
        params = [Param(key, value) for key, value in event.get("params", {}).items()]
        tags = [RunTag(key, value) for key, value in event.get("tags", {}).items()]
        for start in range(0, max(len(metrics), bool(params or tags)), BATCH):
            self._client.log_batch(run, metrics=metrics[start : start + BATCH], params=params, tags=tags)
            params, tags = [], []
        for file, folder in event.get("files", ()):
            if ".." in Path(file).parts or Path(file).is_absolute():  # a log may be somebody else's
                raise LookupError(f"{file!r} is not in the output folder")
            path = self._place.out / file
            if not path.exists() and path.is_relative_to(self._place.out / "trials"):
                self._place.brought(path.parent)  # from the node that wrote it
            if path.exists():
                self._client.log_artifact(run, str(path), folder or None)
        if event.get("status") == "RUNNING":
            self._client.update_run(run, status="RUNNING")
        elif "status" in event:
            self._client.set_terminated(run, event["status"], end_time=at)

    def _begun(self, name: str, at: int, begin: Mapping) -> str:
        tags = {**begin["tags"], "harness.log": self.log, "harness.event": name}
        if begin["parent"]:
            tags["mlflow.parentRunId"] = self.runs[begin["parent"]]
        return self._client.create_run(self.experiment, start_time=at, run_name=begin["title"], tags=tags).info.run_id


class Delivery:
    """Passes a log on to a store in a thread of its own, from where the last delivery to that store came to."""

    def __init__(self, uri: str, log: Path, place: Place, safe: Callable[[str], float] = lambda name: math.inf):
        """Open the store at `uri`, made if it is a new SQLite file. Raises `Mistake` where it cannot be reached.

        safe(name) says up to which byte of the log its store may be told: what the driver's machine could still take
        away with it would be told again, at another time.
        """
        reachable(uri)
        self._uri, self._log = uri, log
        self._safe = lambda: safe(log.relative_to(place.out).as_posix())
        self.store = _opened(uri, log, place)
        self._mark = log.with_suffix(f".{hashlib.sha256(redacted(uri).encode()).hexdigest()[:8]}.delivered")
        told = _position(self._mark) if self.store.runs else 0  # a new store is told everything
        self._at = self._marked = told or events.first(log)
        self._refused: list[str] = []
        self._trouble = ""
        self._ending = False
        self._thread = threading.Thread(target=self._work, name="deliver", daemon=True)

    def __enter__(self) -> "Delivery":
        self._thread.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ending = True  # what the store does not take now stays in the log
        self._thread.join(PATIENCE)

    def caught_up(self) -> bool:
        """Wait until the store was told all that the log holds now; False where it takes nothing for too long."""
        end, at, since = self._log.stat().st_size, -1, time.monotonic()
        while self._at < end:
            if self._at > at:
                at, since = self._at, time.monotonic()
            if time.monotonic() - since > PATIENCE or not self._thread.is_alive():
                return False
            time.sleep(0.02)
        return True

    def complaint(self) -> str:
        """What the store has not got, and what to do about it; "" where it has everything."""
        left = sum(1 for _ in events.read(self._log, self._at))
        if left:
            return (
                f"the tracking store {redacted(self._uri)!r} failed: {self._trouble or 'it takes too long'};"
                f" {left} events wait in {str(self._log)!r}, send them by: python -m harness.deliver"
            )
        if self._refused:
            said = f"{len(self._refused)} events, the first one: {self._refused[0]}"
            return f"the tracking store {redacted(self._uri)!r} refused {said}"
        return ""

    def _work(self) -> None:
        told = True
        while told and not (self._ending and self._at >= min(self._log.stat().st_size, self._safe())):
            noted = time.monotonic()
            safe = self._safe()
            for event, end in events.read(self._log, self._at):
                if end > safe or not (told := self._pass_on(event)):
                    break
                self._at = end
                if time.monotonic() - noted > 1:
                    noted = self._note()
            self._note()
            if not self._ending:
                time.sleep(IDLE)

    def _note(self) -> float:
        """Keep how far the store was told. Told twice it is no worse off, so this may lag."""
        if self._at > self._marked:
            write_json(self._mark, {"at": self._at})
            self._marked = self._at
        return time.monotonic()

    def _pass_on(self, event: events.Event) -> bool:
        """Tell the store until it has heard; False where it has not at the end."""
        for tries in itertools.count():
            try:
                if tries:
                    self.store.recall()  # what failed to answer may have been done all the same
                self.store.take(event)
                return True
            except Exception as error:  # stores fail in their drivers' own ways
                if isinstance(error, LookupError) or getattr(error, "error_code", "") in REFUSALS:
                    self._refused.append(one_line(error))
                    return True
                self._trouble = one_line(error)
            if self._ending:
                return False
            time.sleep(PAUSES[min(tries, len(PAUSES) - 1)])


def everything(uri: str, log: Path, place: Place) -> Delivery:
    """Pass on all that the log holds. Raises `Mistake` where the store does not take it."""
    with Delivery(uri, log, place) as delivery:
        delivery.caught_up()
    if complaint := delivery.complaint():
        raise Mistake(complaint)
    return delivery


def default_uri(place: Place) -> str:
    """The store that the environment names, as for MLflow's own commands; else a SQLite file of the output folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{place.out / 'mlflow.db'}"


def _position(mark: Path) -> int:
    try:
        return int(json.loads(mark.read_text())["at"])
    except (OSError, ValueError, KeyError, TypeError):  # then it is told again, which does no harm
        return 0


def _opened(uri: str, log: Path, place: Place) -> Store:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of SQLAlchemy, about MLflow's own use of it
            from mlflow import MlflowClient

            return Store(MlflowClient(tracking_uri=uri), uri, log, place)
    except Mistake:
        raise
    except Exception as error:  # stores fail in their drivers' own ways
        raise Mistake(f"cannot use the tracking store {redacted(uri)!r}: {one_line(error)}") from None


def reachable(uri: str) -> None:
    """Raise `Mistake` for a store that is not there, before MLflow retries for minutes."""
    scheme, _, rest = uri.partition("://")
    if scheme in ("http", "https"):
        try:
            urllib.request.urlopen(without_user(uri).rstrip("/") + "/health", timeout=5).close()
        except urllib.error.HTTPError as error:
            error.close()  # it answered; whether it lets us in is for MLflow to find out
        except (OSError, ValueError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise Mistake(f"no MLflow server answers at {redacted(uri)!r}: {reason}") from None
    elif scheme == "sqlite":
        file = Path(rest.removeprefix("/"))
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with open(file, "ab"):
                pass
        except OSError as error:
            raise Mistake(f"cannot write the tracking database {str(file)!r}: {error.strerror}") from None
    elif scheme not in ("postgresql", "mysql", "mssql", "databricks"):
        raise Mistake(f"--tracking-uri takes sqlite:///path, http(s)://server or a database, not {redacted(uri)!r}")


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    p = argparse.ArgumentParser(
        prog="python -m harness.deliver",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--out", default="runs", help="folder that a sweep wrote, or its URI (default %(default)s)")
    p.add_argument(
        "--tracking-uri", help="MLflow store or server (default $MLFLOW_TRACKING_URI, else sqlite:///<out>/mlflow.db)"
    )
    return p.parse_args(words)


def main(words: list[str] | None = None) -> int:
    args = arguments(words)
    place = cli.local(args.out)
    if place.store and not args.tracking_uri and "MLFLOW_TRACKING_URI" not in os.environ:
        raise Mistake(f"say by --tracking-uri who is to learn what lies at {args.out!r}, such as sqlite:///mlflow.db")
    if not place.store and not (place.out / events.FOLDER).is_dir():
        raise Mistake(f"no sweep was written to {args.out!r}; give its folder by --out")
    with place.writable().alone() as free:
        if not free:
            raise Mistake(f"a command is writing to {args.out!r}, and delivers by itself; wait for its end")
        with place.mirrored():
            _each(place, args.tracking_uri or default_uri(place), args.out)
    return 0


def _each(place: Place, uri: str, out: str) -> None:
    logs = sorted((place.out / events.FOLDER).glob("*.jsonl"))
    if not logs:
        raise Mistake(f"no sweep was written to {out!r}; give its folder by --out")
    for log in logs:
        told = everything(uri, log, place)
        print(f"{events.head(log)['experiment']}: {len(told.store.runs)} runs of {log.stem} at {redacted(uri)}")


if __name__ == "__main__":
    sys.exit(exit_status(main))
