"""Run a sweep as it was asked for, from the plan to the report; the commands, notebooks and benchmarks do it so:

planned, workspace = prepared(Request(space="sat", trials=10))
swept = run(planned, workspace)
"""

import contextlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness import cli
from harness.errors import UserError
from harness.sweep import ray_addresses, run_file
from harness.sweep.plan import Plan, check_data, plan
from harness.sweep.request import Request

if TYPE_CHECKING:
    from harness.storage.driver_files import DriverFiles
    from harness.storage.workspace import Workspace
    from harness.sweep.job_types import Callback
    from harness.sweep.study import Study
    from harness.sweep.trial_slots import Slots
    from harness.sweep_report import SweepReport
    from harness.tracking.tracker import Tracker


@dataclass(frozen=True)
class Swept:
    """How a sweep ended. report: None after an interruption. undelivered: why MLflow lacks something, else empty."""

    planned: Plan
    report: "SweepReport | None" = None
    undelivered: str = ""


def no_report(report: "SweepReport") -> None:
    """Do nothing with a report but write it."""


def prepared(request: Request) -> "tuple[Plan, Workspace]":
    """The plan and the workspace of a sweep, with its data read. Raises `UserError` for anything wrong in the request.

    Nothing is recorded yet.
    """
    planned = plan(request)
    ray_addresses.check_paths(request)
    return planned, opened(planned)


def opened(planned: Plan) -> "Workspace":
    """The workspace of a plan, in which the data and all that cells name were found."""
    workspace = open_workspace(planned.request)
    check_data(planned, workspace)
    return workspace


def open_workspace(request: Request) -> "Workspace":
    """The workspace of a request: absolute paths, created and writable."""
    return cli.open_workspace(request.out, request.data_root, request.device, shared=bool(request.address))


def check_start(request: Request, workspace: "Workspace") -> None:
    """Raise `UserError` if no node can hold a trial, or the tracking store cannot be reached."""
    from harness.sweep import cluster
    from harness.tracking.mlflow_client import check_writable

    try:
        _slots(request, workspace)
    finally:
        cluster.disconnect()
    check_writable(_tracking_uri(request, workspace), create=False)


def _tracking_uri(request: Request, workspace: "Workspace") -> str:
    """The chosen tracking store, else the default one. Raises `UserError` if that cannot lie in the output folder."""
    from harness.tracking.mlflow_client import default_uri

    uri = request.tracking_uri or default_uri(workspace)
    if workspace.remote and uri.startswith("sqlite") and not request.tracking_uri:
        raise UserError(
            f"SQLite cannot be stored at {request.out!r}; give an MLflow server: --tracking-uri http://HOST:5000"
        )
    return uri


def run(
    planned: Plan,
    workspace: "Workspace",
    *,
    callbacks: "Sequence[Callback]" = (),
    on_report: "Callable[[SweepReport], None]" = no_report,
) -> Swept:
    """Run a plan and write its report. Raises `UserError`, and `DriverLost` if another command took the output over.

    callbacks: observers of the jobs, beside the tracker and the progress display. on_report: called as soon as the
    report is written, before the store has all of it.
    """
    from harness.sweep import cluster, stop_signals

    uri = _tracking_uri(planned.request, workspace)
    with stop_signals.as_ctrl_c():
        try:
            with workspace.single_writer() as driver_files:
                if not driver_files:
                    raise UserError(
                        f"another command is writing to {planned.request.out!r}; wait for it, or choose another --out"
                    )
                return _locked_run(planned, workspace, uri, driver_files, callbacks, on_report)
        finally:
            cluster.disconnect()


def _locked_run(
    planned: Plan,
    workspace: "Workspace",
    uri: str,
    driver_files: "DriverFiles",
    callbacks: "Sequence[Callback]",
    on_report: "Callable[[SweepReport], None]",
) -> Swept:
    from harness import sweep_report
    from harness.sweep import ray_folder, unneeded
    from harness.tracking import sweep_logs
    from harness.tracking.delivery import Delivery
    from harness.tracking.sweep_tags import sweep_tags
    from harness.tracking.tracker import SWEEP, Tracker
    from harness.trials.discarded_weights import by_kind

    request = planned.request
    shutil.rmtree(workspace.out / ray_folder.RUN, ignore_errors=True)  # of a killed command
    slots = _slots(request, workspace)
    planned = sweep_logs.continued(planned, workspace)
    tracker = Tracker(workspace, planned.experiment, sweep_tags(planned))
    with Delivery(uri, tracker.log, workspace, driver_files.durable_size) as delivery:
        delivery.writer.check_not_deleted({SWEEP, *planned.studies})
        studies = open_studies(planned, workspace, tracker)
        finished = False
        with contextlib.suppress(KeyboardInterrupt):  # a signal before trials run, or a second one
            finished = _run_jobs(planned, workspace, slots, studies, tracker, driver_files, callbacks)
        if not finished:
            tracker.close("KILLED")
            driver_files.push()
            return Swept(planned)
        driver_files.push()  # raises if another command took over, whose weights these now are
        sizes = workspace.sizes()
        gone = unneeded.discard(workspace, sizes, planned.studies) if request.keep == "winners" else {}
        tracker.log_disk(by_kind({path: size for path, size in sizes.items() if path not in gone}))
        tracker.close()
        driver_files.push()
        report = sweep_report.write_report(planned, workspace, uri, tracker, studies)
        on_report(report)
        driver_files.push()
        if delivery.caught_up() and request.register and not delivery.failure():
            sweep_report.register(uri, request.register, report.winners, delivery.writer)
    return Swept(planned, report, delivery.failure() or "")


def open_studies(planned: Plan, workspace: "Workspace", tracker: "Tracker") -> "list[Study]":
    """Open or resume the Optuna study of every cell, and start its MLflow run."""
    from harness.config.setting_text import format_setting
    from harness.storage.driver_files import JOURNAL
    from harness.sweep import optuna_journal, warm_start
    from harness.sweep.study import Study
    from harness.tracking.sweep_tags import study_tags, sweep_note

    request = planned.request
    storage = optuna_journal.open_journal(workspace.out / JOURNAL)
    warm = warm_start.read(planned, request.warm_start, storage, workspace) if request.warm_start else None
    tracker.start_sweep(f"{planned.experiment} {planned.sweep}", sweep_note(planned))
    for study, cell in reversed(planned.studies.items()):  # MLflow shows the newest first
        searched = {path: format_setting(cell.trial, path, domain) for path, domain in cell.search.items()}
        tracker.start_study(study, cell.name, study_tags(planned, cell), searched)
    tracker.log_removed(planned.space_cells)
    kept = workspace.out / "reports" / f"{tracker.log.stem}.toml"
    if run_file.keep(request, kept):
        tracker.attach([kept], folder="")
    studies = [
        Study(study, planned.space, cell, planned.trials, storage, request.seed)
        for study, cell in planned.studies.items()
    ]
    if warm:
        for opened in studies:
            for known in warm.known[opened.name]:
                opened.know(known.source, known.values, known.scores)
        tracker.log_search(planned.studies, {"harness.warm_start": str(warm)})
        if not request.quiet:
            print(warm, flush=True)
    if request.retry_failed:
        number = sum(min(study.retry_failed(), study.remaining()) for study in studies)
        if not request.quiet:
            print(f"failed trials that run again: {number}", flush=True)
    return studies


def _run_jobs(
    planned: Plan,
    workspace: "Workspace",
    slots: "Slots",
    studies: "list[Study]",
    tracker: "Tracker",
    driver_files: "DriverFiles",
    callbacks: "Sequence[Callback]",
) -> bool:
    """Run the remaining search trials and seed repetitions. False after an interruption."""
    from harness.sweep import cluster, job_queue, ray_runner, search_limits, stored_jobs, unneeded
    from harness.sweep.estimate import shapes
    from harness.sweep.progress import SweepProgress
    from harness.sweep.time_left import TimeLeft

    request = planned.request
    limits = search_limits.of(planned, workspace, slots.at_once)
    source = job_queue.SweepJobs(
        studies,
        planned.seeds,
        tracker.on_winners,
        stored_jobs.is_done(tracker, workspace),
        stored_jobs.missing_needs(tracker, workspace),
        unneeded.discarder(workspace, planned.studies) if request.keep == "winners" else job_queue.no_discard,
        limits,
    )
    if not request.quiet:
        on = (
            f"; a trial takes {slots} of the cluster at {chosen}"
            if (chosen := ray_addresses.chosen(request.address))
            else ""
        )
        print(f"{planned.experiment}: {len(studies)} cells; results in {workspace.out}{on}", flush=True)

    def log_end() -> None:
        trials = {study.cell.name: study.n_started for study in studies}
        text = search_limits.ending(source.reached, trials, planned.trials, source.seeds_left)
        tracker.log_search(planned.studies, search_limits.tags(request, text))

    if source.finished():
        log_end()
        return True
    names = {study: cell.name for study, cell in planned.studies.items()}
    if not cluster.connected():
        cluster.connect(request.address)
    displays = []
    if not request.quiet:
        time_left = TimeLeft(shapes(planned, workspace), slots.at_once)
        at_most = limits.time.left if limits.time else None
        displays = [
            SweepProgress(source.remaining, source.to_come, time_left, planned.space.goals[0], names, at_most=at_most)
        ]

    def check() -> None:
        driver_files.check()
        cluster.check()

    def on_wait() -> None:
        for display in displays:
            display.note(f"no trial runs: waiting for a node with {slots} free")

    try:
        finished = ray_runner.run_jobs(
            source,
            workspace,
            slots=slots,
            callbacks=[tracker, *displays, *limits.callbacks, *callbacks],
            limit=request.time_limit,
            check=check,
            on_wait=on_wait,
        )
        if finished:
            log_end()
        return finished
    finally:
        cluster.disconnect()
        for display in displays:
            display.close()


def _slots(request: Request, workspace: "Workspace") -> "Slots":
    """What a trial gets of this machine, or of the cluster, which is connected to, and how many run at once.

    Raises `UserError`, before anything is recorded, if no node can hold a trial.
    """
    from harness.sweep import cluster, trial_slots

    nodes, gpu_nodes = [trial_slots.local_resources()], []
    if ray_addresses.chosen(request.address):
        cluster.connect(request.address)
        nodes = trial_slots.cluster_resources()
        gpu_nodes = [] if request.device == "cpu" else nodes
    gpus = trial_slots.gpus_per_trial(request.gpus, workspace.device, gpu_nodes)
    fitting = trial_slots.slots(request.cpus, gpus, nodes)
    return trial_slots.Slots(request.cpus, gpus, min(fitting, request.workers or fitting))
