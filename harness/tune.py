"""Run a sweep: hyperparameter search, seed repetitions of the winners, one test each, report.

    python -m harness.tune --space sat
    python -m harness.tune --space sat --data cifar10 --trials 20 --gpus 0.25
    python -m harness.tune --space sat --set epochs=30 --set method.schedule=linear
    python -m harness.tune --space pgd --cell pgd --set method=mine
    python -m harness.tune --space sat --dry-run

Repeating the command continues an interrupted sweep; with more --trials or --seeds it extends a finished one. Cells
chosen by --cell, and a method tried in the place of a cell's own, join the sweep of their space and its report.
"""

import contextlib
import shutil
import sys
from argparse import Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness import cli
from harness.arguments import filled, number, whole
from harness.errors import UserError, complain, exit_status, shell_command
from harness.sweep import ray_addresses, remote_command
from harness.sweep.estimate import dry_run, shapes
from harness.sweep.plan import Plan, check_data, plan

if TYPE_CHECKING:
    from harness.storage.driver_files import DriverFiles
    from harness.storage.workspace import Workspace
    from harness.sweep.job_types import Callback
    from harness.sweep.study import Study
    from harness.sweep.trial_slots import Slots
    from harness.tracking.tracker import Tracker


def arguments(argv: list[str] | None = None) -> Namespace:
    p = cli.parser("harness.tune", __doc__, single=False)
    p.add_argument("--list", action="store_true", help="list the spaces and the question of each")
    p.add_argument("--dry-run", action="store_true", help="show cells, domains, trials and estimated cost; run nothing")
    p.add_argument(
        "--cell",
        action="append",
        default=[],
        help="run only this cell; may be repeated. With one, --set may replace its method and what the space compares",
    )
    p.add_argument("--trials", type=whole(1), help="trials per cell (default: the space's)")
    p.add_argument("--seeds", type=whole(0), help="seeds per winner (default: the space's)")
    p.add_argument("--cpus", type=number, default=1, help="CPU cores per trial (default 1)")
    p.add_argument("--gpus", type=number, help="GPUs per trial, fractions allowed (default 1 on a GPU device)")
    p.add_argument("--workers", type=whole(1), metavar="N", help="run at most N trials at once (default: all that fit)")
    p.add_argument(
        "--time-limit", type=number, metavar="SECONDS", help="a trial that takes longer fails (default: none)"
    )
    p.add_argument("--retry-failed", action="store_true", help="run the failed trials of an earlier command again")
    p.add_argument(
        "--keep",
        default="winners",
        metavar="winners|all",
        help="whose weights stay: winners (and seeds, teachers, what is unfinished; default), or all",
    )
    p.add_argument(
        "--tracking-uri",
        type=filled,
        help="MLflow store or server (default $MLFLOW_TRACKING_URI, else sqlite:///<out>/mlflow.db)",
    )
    p.add_argument(
        "--register", metavar="NAME", help="register each winner's weights as a version of this MLflow model"
    )
    p.add_argument(
        "--address",
        type=filled,
        help="Ray cluster: HOST:6379, ray://HOST:10001, auto or local (default: $RAY_ADDRESS, else local)",
    )
    return p.parse_args(argv)


def main() -> int:
    args = arguments()
    if args.list:
        for name in cli.spaces():
            print(f"{name:<12} {cli.summary(name)}")
        return 0
    planned = plan(args)
    ray_addresses.check_paths(args)
    if ray_addresses.is_outside(args.address):
        return remote_command.run(args.address, sys.argv[1:])
    workspace = cli.workspace(args)
    check_data(planned, workspace)
    if planned.note and not args.quiet:
        print(planned.note, flush=True)
    if args.dry_run:
        _check_start(args, workspace)
        print(dry_run(planned, workspace))
        return 0
    return sweep(planned, workspace, args)


def _check_start(args: Namespace, workspace: "Workspace") -> None:
    """Raise `UserError` if no node can hold a trial, or the tracking store cannot be reached."""
    from harness.sweep import cluster
    from harness.tracking.mlflow_client import check_writable

    try:
        _slots(args, workspace)
    finally:
        cluster.disconnect()
    check_writable(_tracking_uri(args, workspace), create=False)


def _tracking_uri(args: Namespace, workspace: "Workspace") -> str:
    """The chosen tracking store, else the default one. Raises `UserError` if that cannot lie in the output folder."""
    from harness.tracking.mlflow_client import default_uri

    uri = args.tracking_uri or default_uri(workspace)
    if workspace.remote and uri.startswith("sqlite") and not args.tracking_uri:
        raise UserError(
            f"SQLite cannot be stored at {args.out!r}; give an MLflow server: --tracking-uri http://HOST:5000"
        )
    return uri


def sweep(planned: Plan, workspace: "Workspace", args: Namespace, callbacks: "Sequence[Callback]" = ()) -> int:
    """Run a plan and write its report. callbacks: additional ones. Returns the command's exit status."""
    from harness.storage.driver_lock import DriverLost
    from harness.sweep import cluster, stop_signals

    uri = _tracking_uri(args, workspace)
    with stop_signals.as_ctrl_c():
        try:
            with workspace.single_writer() as driver_files:
                if not driver_files:
                    raise UserError(f"another command is writing to {args.out!r}; wait for it, or choose another --out")
                return _locked_sweep(planned, workspace, uri, driver_files, args, callbacks)
        except DriverLost as error:
            complain(f"error: {error}")
            return 1
        finally:
            cluster.disconnect()


def _locked_sweep(
    planned: Plan,
    workspace: "Workspace",
    uri: str,
    driver_files: "DriverFiles",
    args: Namespace,
    callbacks: "Sequence[Callback]",
) -> int:
    from harness import sweep_report
    from harness.sweep import ray_folder, unneeded
    from harness.tracking import sweep_logs
    from harness.tracking.delivery import Delivery
    from harness.tracking.sweep_tags import sweep_tags
    from harness.tracking.tracker import SWEEP, Tracker
    from harness.trials.discarded_weights import by_kind

    shutil.rmtree(workspace.out / ray_folder.RUN, ignore_errors=True)  # of a killed command
    slots = _slots(args, workspace)
    planned = sweep_logs.continued(planned, workspace)
    tracker = Tracker(workspace, planned.experiment, sweep_tags(planned))
    with Delivery(uri, tracker.log, workspace, driver_files.durable_size) as delivery:
        delivery.writer.check_not_deleted({SWEEP, *planned.studies})
        studies = _studies(planned, workspace, args, tracker)
        finished = False
        with contextlib.suppress(KeyboardInterrupt):  # a signal before trials run, or a second one
            finished = _run_jobs(planned, workspace, args, slots, studies, tracker, driver_files, callbacks)
        if not finished:
            tracker.close("KILLED")
            driver_files.push()
            complain(f"interrupted; finished trials are stored. Continue with: {_resume_command()}")
            return 130
        driver_files.push()  # raises if another command took over, whose weights these now are
        sizes = workspace.sizes()
        gone = unneeded.discard(workspace, sizes, planned.studies) if args.keep == "winners" else {}
        tracker.log_disk(by_kind({path: size for path, size in sizes.items() if path not in gone}))
        tracker.close()
        driver_files.push()
        status, winners = sweep_report.report(planned, workspace, uri, tracker, studies)
        driver_files.push()
        if delivery.caught_up() and args.register and not delivery.failure():
            sweep_report.register(uri, args.register, winners, delivery.writer)
    if failure := delivery.failure():
        complain(f"error: {failure}")
        return 1
    return status


def _studies(planned: Plan, workspace: "Workspace", args: Namespace, tracker: "Tracker") -> "list[Study]":
    """Open or resume the Optuna study of every cell, and start its MLflow run."""
    from harness.config.setting_text import format_setting
    from harness.storage.driver_files import JOURNAL
    from harness.sweep import optuna_journal
    from harness.sweep.study import Study
    from harness.tracking.sweep_tags import study_tags, sweep_note

    tracker.start_sweep(f"{planned.experiment} {planned.sweep}", sweep_note(planned))
    for study, cell in reversed(planned.studies.items()):  # MLflow shows the newest first
        searched = {path: format_setting(cell.trial, path, domain) for path, domain in cell.search.items()}
        tracker.start_study(study, cell.name, study_tags(planned, cell), searched)
    tracker.log_removed(planned.space_cells)
    storage = optuna_journal.open_journal(workspace.out / JOURNAL)
    studies = [
        Study(study, planned.space, cell, planned.trials, storage, args.seed) for study, cell in planned.studies.items()
    ]
    if args.retry_failed:
        number = sum(min(study.retry_failed(), study.remaining()) for study in studies)
        if not args.quiet:
            print(f"failed trials that run again: {number}", flush=True)
    return studies


def _run_jobs(
    planned: Plan,
    workspace: "Workspace",
    args: Namespace,
    slots: "Slots",
    studies: "list[Study]",
    tracker: "Tracker",
    driver_files: "DriverFiles",
    callbacks: "Sequence[Callback]",
) -> bool:
    """Run the remaining search trials and seed repetitions. False after an interruption."""
    from harness.sweep import cluster, job_queue, ray_runner, stored_jobs, unneeded
    from harness.sweep.progress import SweepProgress
    from harness.sweep.time_left import TimeLeft

    source = job_queue.SweepJobs(
        studies,
        planned.seeds,
        tracker.on_winners,
        stored_jobs.is_done(tracker, workspace),
        stored_jobs.missing_needs(tracker, workspace),
        unneeded.discarder(workspace, planned.studies) if args.keep == "winners" else job_queue.no_discard,
    )
    if not args.quiet:
        on = (
            f"; a trial takes {slots} of the cluster at {chosen}"
            if (chosen := ray_addresses.chosen(args.address))
            else ""
        )
        print(f"{planned.experiment}: {len(studies)} cells; results in {workspace.out}{on}", flush=True)
    if source.finished():
        return True
    names = {study: cell.name for study, cell in planned.studies.items()}
    if not cluster.connected():
        cluster.connect(args.address)
    displays = []
    if not args.quiet:
        time_left = TimeLeft(shapes(planned, workspace), slots.at_once)
        displays = [SweepProgress(source.remaining, source.to_come, time_left, planned.space.goals[0], names)]

    def check() -> None:
        driver_files.check()
        cluster.check()

    def on_wait() -> None:
        for display in displays:
            display.note(f"no trial runs: waiting for a node with {slots} free")

    try:
        callbacks = [tracker, *displays, *callbacks]
        return ray_runner.run_jobs(
            source,
            workspace,
            slots=slots,
            callbacks=callbacks,
            limit=args.time_limit,
            check=check,
            on_wait=on_wait,
        )
    finally:
        cluster.disconnect()
        for display in displays:
            display.close()


def _slots(args: Namespace, workspace: "Workspace") -> "Slots":
    """What a trial gets of this machine, or of the cluster, which is connected to, and how many run at once.

    Raises `UserError`, before anything is recorded, if no node can hold a trial.
    """
    from harness.sweep import cluster, trial_slots

    nodes, gpu_nodes = [trial_slots.local_resources()], []
    if ray_addresses.chosen(args.address):
        cluster.connect(args.address)
        nodes = trial_slots.cluster_resources()
        gpu_nodes = [] if args.device == "cpu" else nodes
    gpus = trial_slots.gpus_per_trial(args.gpus, workspace.device, gpu_nodes)
    fitting = trial_slots.slots(args.cpus, gpus, nodes)
    return trial_slots.Slots(args.cpus, gpus, min(fitting, args.workers or fitting))


def _resume_command() -> str:
    return shell_command("python", "-m", "harness.tune", *sys.argv[1:])


if __name__ == "__main__":
    sys.exit(exit_status(main))
