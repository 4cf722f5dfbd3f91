"""The one module that imports Ray: it runs jobs side by side, on this machine or on a cluster.

Ray Tune places trials, restarts those whose worker died, and keeps workers between trials. What is to run, and what
stops early, a `Source` says; trials checkpoint and resume by themselves.
"""

import contextlib
import dataclasses
import faulthandler
import gc
import importlib
import logging
import math
import os
import re
import shutil
import signal
import socket
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from harness import remote
from harness.errors import Mistake, one_line
from harness.jobs import Job, Listener, Outcome, Source
from harness.place import Place

# Read by Ray when it is imported: no telemetry, no chatter, no snapshots of a state that lies elsewhere.
for _name, _value in {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # a local cluster listens on loopback only
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}.items():
    os.environ.setdefault(_name, _value)

import ray  # noqa: E402 - after its settings
from ray import tune  # noqa: E402 - likewise
from ray.tune.schedulers import FIFOScheduler, TrialScheduler  # noqa: E402 - likewise
from ray.tune.search import Searcher  # noqa: E402 - likewise

RETRIES = 2  # of a trial whose workers die before another epoch is done
SCRATCH = "ray"  # under the output folder, while trials run


def connect(address: str | None, package: Path | None = None) -> None:
    """Join the cluster at `address` (or of the surrounding Ray job), or start one on this machine.

    An address ray://host:port is joined as a client, which sends the folder `package` along, if any. Raises `Mistake`
    where there is no cluster.
    """
    logging.getLogger("ray").setLevel(logging.ERROR)
    quiet = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address is None or remote.IN_JOB in os.environ:
        address = os.environ.get("RAY_ADDRESS", address)
    if address and address.startswith(("http://", "https://")):
        raise Mistake(
            f"{address!r} is a dashboard; give it the command: ray job submit --address {address} --working-dir ."
            " -- python -m harness.tune --address auto ..."
        )
    try:
        if address:
            _answers(address)
            os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "1"
            with warnings.catch_warnings(action="ignore"):
                ray.init(address=address, runtime_env={"working_dir": str(package)} if package else None, **quiet)
        else:
            ray.init(address="local", include_dashboard=False, **quiet)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise Mistake(_no_cluster(address, error)) from None
    if not address or not address.startswith(remote.CLIENT):
        # Ray stops in good order on SIGUSR1 and SIGINT only; a job's stop and a preemption send SIGTERM.
        signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), signal.SIGUSR1))


def _no_cluster(address: str | None, error: Exception) -> str:
    """One line for what `ray.init` raised, most likely cause first."""
    said = f"{error} {error.__cause__}"
    if "ray[client]" in said:
        return f"{address!r} needs Ray's client; install it here: pip install -c constraints.txt -e .[cluster]"
    if "No node info found" in said:
        return f"this machine is no node of the cluster at {address!r}; from outside give ray://HOST:10001"
    if type(error) is ConnectionError:  # somebody listens there, or `_answers` had raised a more exact one
        return f"{address!r} answers, but lets nobody in; is it a Ray cluster, and RAY_AUTH_TOKEN its token?"
    return f"no Ray cluster at {address!r}: {one_line(error)}"


def _answers(address: str) -> None:
    """Raise `OSError` where nobody listens at host:port; Ray itself waits for minutes and prints a page."""
    host, _, port = address.removeprefix(remote.CLIENT).rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=5).close()


def local_slots(cpus: float) -> int:
    """How many trials of so many cores this machine runs at once."""
    return max(1, math.floor((os.cpu_count() or 1) / cpus))


def disconnect() -> None:
    ray.shutdown()


def slots(cpus: float, gpus: float) -> int:
    """How many trials run at once, on all nodes. Raises `Mistake` where no node has room for one."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    for kind, wanted in (("CPU", cpus), ("GPU", gpus)):
        largest = max((node.get(kind, 0) for node in nodes), default=0)
        if wanted > largest:
            raise Mistake(f"a trial asks for {wanted:g} {kind}, but the largest node has {largest:g}")
    room = sum(_room(node, cpus, gpus) for node in nodes)
    if not room:
        raise Mistake(f"a trial asks for {cpus:g} CPU and {gpus:g} GPU, but no node has both")
    return room


def _room(node: Mapping[str, float], cpus: float, gpus: float) -> int:
    """How many trials a node takes at once; none shares two GPUs by halves."""
    rooms = [math.floor(node.get("CPU", 0) / cpus)] if cpus else []
    if gpus:
        there = node.get("GPU", 0)
        rooms.append(math.floor(there / gpus) if gpus >= 1 else math.floor(there) * math.floor(1 / gpus))
    return min(rooms, default=1)


def run_all(
    source: Source,
    place: Place,
    *,
    cpus: float,
    gpus: float,
    listeners: Sequence[Listener],
    limit: float | None = None,
    work: str = "harness.trial:run",
) -> bool:
    """Run every job of the source; repetitions of winners are also tested.

    limit: seconds after which a trial that is not done has failed. work: where workers find what runs a trial, with
    the signature of `harness.trial.run`.

    Returns whether the source is finished; False after an interruption. Raises what the source, a listener or, as a
    `Mistake`, a worker could not go on with; jobs under way are then neither ended nor lost.
    """
    if source.finished():
        return True
    desk = _Desk(source, listeners)
    name = f"ray-{uuid.uuid4().hex[:8]}"
    trainable = tune.with_resources(_trainable, {"cpu": cpus, "gpu": gpus})
    tuner = tune.Tuner(
        trainable,
        param_space={"place": dataclasses.astuple(place), "work": work, "limit": limit},
        tune_config=tune.TuneConfig(
            search_alg=_Proposals(desk),
            scheduler=_Rungs(desk),
            num_samples=-1,  # as many as the source has
            max_concurrent_trials=slots(cpus, gpus),
            reuse_actors=True,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name=name,
            storage_path=str(place.out / SCRATCH),
            verbose=0,
            callbacks=[_Workers(desk)],
            stop=_Trouble(desk),
            failure_config=tune.FailureConfig(max_failures=RETRIES),
        ),
    )
    try:
        with _muted("ray.tune"):
            tuner.fit()
    finally:
        shutil.rmtree(place.out / SCRATCH, ignore_errors=True)
    if desk.trouble:
        raise desk.trouble
    return source.finished() and not desk.jobs


def _trainable(config: dict) -> None:
    """One job on a worker. What goes wrong in it is reported as its outcome, so that only a dead worker is retried."""
    import torch

    from harness.config import build

    module, _, function = config["work"].partition(":")
    run = getattr(importlib.import_module(module), function)
    place = Place(*config["place"]).writable()
    gpus = ray.get_gpu_ids()
    place = dataclasses.replace(place, device="cuda" if gpus else "cpu")
    gc.collect()  # what an earlier trial of this worker left
    if not gc.get_freeze_count():
        gc.freeze()  # before the first one: modules, which no later collection need look at
    if gpus:
        torch.cuda.empty_cache()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 1)))
    epoch = 0

    def report(row: dict) -> None:
        nonlocal epoch
        epoch = row["epoch"]
        tune.report({"row": tuple(row.items())})  # no dict: Ray flattens those

    try:
        overdue = place.out / SCRATCH / f"{tune.get_context().get_trial_id()}.overdue"
        if hung := where_it_hung(overdue):
            tune.report({"outcome": Outcome("failed", epoch, reason=f"not done after {config['limit']:g} s, {hung}")})
            return
        with limited(config["limit"], overdue):
            result = run(build(config["settings"]), place, report=report, test=config["test"])
        tune.report({"outcome": Outcome("complete", epoch, result)})
    except (
        Mistake,
        OSError,
    ) as error:  # a full disk, a damaged file: no trial is at fault, and the next would fare no better
        tune.report({"mistake": str(error)})
    except Exception as error:  # any failure of a trial is a result of the study
        tune.report({"outcome": Outcome("failed", epoch, reason=one_line(error))})


@contextlib.contextmanager
def limited(seconds: float | None, file: Path) -> Iterator[None]:
    """Within, this process ends after so many seconds, whatever it hangs in; the file then says where that was."""
    if not seconds:
        yield
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "w") as said:
        faulthandler.dump_traceback_later(seconds, exit=True, file=said)  # needs no interpreter that answers
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
    file.unlink()


def where_it_hung(file: Path) -> str:
    """What `limited` left: the innermost call of the trial, as `at file.py, line 3, in f`; "" if it left nothing."""
    if not file.exists() or not (said := file.read_text()):
        return ""
    thread = next((t for t in said.split("\n\n") if "in _trainable" in t), said)
    call = re.search(r'File "(?:.*/)?(.+)", line (\d+) in (\S+)', thread)
    return f"at {call[1]}, line {call[2]}, in {call[3]}" if call else "nobody knows where"


class _Desk:
    """Passes between Ray and the source: which Ray trial is which job, and what became of it."""

    def __init__(self, source: Source, listeners: Sequence[Listener]):
        self.source, self.listeners = source, listeners
        self.jobs: dict[str, Job] = {}
        self.epochs: dict[str, int] = {}
        self.trouble: Exception | None = None

    def take(self, trial_id: str) -> Job | None:
        with self._guarded():
            job = self.source.next()
            if job:
                self.jobs[trial_id] = job
            return job
        return None

    def start(self, trial_id: str) -> None:
        with self._guarded():
            for listener in self.listeners:
                listener.started(self.jobs[trial_id])

    def lose(self, trial_id: str, why: str) -> None:
        with self._guarded():
            for listener in self.listeners:
                listener.lost(self.jobs[trial_id], why)

    def hear(self, trial_id: str, row: dict) -> bool:
        with self._guarded():
            return self._hear(trial_id, row)
        return False

    def end(self, trial_id: str, outcome: Outcome) -> None:
        with self._guarded():
            self._end(trial_id, outcome)

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        """Keep what goes wrong in the driver's own work, to be raised once Ray has stopped in good order."""
        try:
            yield
        except Exception as error:
            self.trouble = self.trouble or error

    def _hear(self, trial_id: str, row: dict) -> bool:
        job = self.jobs[trial_id]
        if row["epoch"] <= self.epochs.get(trial_id, 0):  # reported again after its worker died
            return False
        self.epochs[trial_id] = row["epoch"]
        for listener in self.listeners:
            listener.heard(job, row)
        return self.source.heard(job, row)

    def _end(self, trial_id: str, outcome: Outcome) -> None:
        if trial_id not in self.jobs or self.trouble:
            return
        job = self.jobs[trial_id]
        for listener in self.listeners:  # first, so that a study's finished trial is always a tracked one
            listener.ended(job, outcome)
        self.source.ended(job, outcome)
        del self.jobs[trial_id]

    def __getstate__(self) -> dict:
        """Ray pickles what it is given, for a restoration that is not used here."""
        return {}


class _Proposals(Searcher):
    """Hands the source's jobs to Ray."""

    def __init__(self, desk: _Desk):
        super().__init__()
        self._desk = desk

    def suggest(self, trial_id: str) -> dict | str | None:
        job = self._desk.take(trial_id)
        if job is None:
            return Searcher.FINISHED if self._desk.source.finished() else None
        return {"settings": job.trial.flat(), "test": job.role == "seed"}

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        """Nothing: a trial ends by its own report, or with its worker."""

    def save(self, checkpoint_path: str) -> None:
        """The study's journal is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """The study's journal is the state."""


class _Rungs(FIFOScheduler):
    """Stops a trial where the source says so."""

    def __init__(self, desk: _Desk):
        super().__init__()
        self._desk = desk

    def on_trial_result(self, tune_controller, trial, result: dict) -> str:
        if "mistake" in result:
            self._desk.trouble = self._desk.trouble or Mistake(result["mistake"])
        elif "outcome" in result:
            self._desk.end(trial.trial_id, result["outcome"])
        elif "row" in result:
            row = dict(result["row"])
            if row["epoch"] > self._desk.epochs.get(trial.trial_id, 0):  # it gets on: nodes that leave count no more
                trial.max_failures = trial.num_failures + RETRIES
            if self._desk.hear(trial.trial_id, row):
                self._desk.end(trial.trial_id, Outcome("pruned", row["epoch"]))
                return TrialScheduler.STOP
        return TrialScheduler.CONTINUE


class _Trouble(tune.Stopper):
    """Stops everything once something went wrong that is no trial's fault."""

    def __init__(self, desk: _Desk):
        self._desk = desk

    def __call__(self, trial_id: str, result: dict) -> bool:
        return False

    def stop_all(self) -> bool:
        return getattr(self._desk, "trouble", None) is not None


class _Workers(tune.Callback):
    """Hears when a worker starts on a job, and when it dies over it."""

    def __init__(self, desk: _Desk):
        self._desk = desk

    def on_trial_start(self, iteration: int, trials: list, trial, **info) -> None:
        if trial.trial_id in self._desk.jobs:
            self._desk.start(trial.trial_id)

    def on_trial_recover(self, iteration: int, trials: list, trial, **info) -> None:
        self._desk.lose(trial.trial_id, self._why(trial))

    def on_trial_error(self, iteration: int, trials: list, trial, **info) -> None:
        reason = f"its worker died: {self._why(trial)}"
        self._desk.end(trial.trial_id, Outcome("failed", self._desk.epochs.get(trial.trial_id, 0), reason=reason))

    @staticmethod
    def _why(trial) -> str:
        """The first line of what Ray noted of a dead worker, or the last one of a traceback."""
        try:
            noted = Path(trial.error_file).read_text().rpartition("Failure # ")[2].strip().splitlines()[1:]
        except (OSError, TypeError):
            noted = []
        return (noted or ["nobody knows why"])[-1 if any("Traceback" in line for line in noted) else 0][:500]


@contextlib.contextmanager
def _muted(logger: str):
    """Within, that logger is not heard: Ray prints pages where a worker dies, and the trial goes on elsewhere."""
    log = logging.getLogger(logger)
    level = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        log.setLevel(level)
