"""Search, repeat the winners over seeds, test once, report.

    python -m harness.tune --space sat
    python -m harness.tune --space sat --data cifar10 --trials 20 --gpus 0.25
    python -m harness.tune --space sat --set epochs=30 --set method.schedule=linear
    python -m harness.tune --space sat --dry-run

The same command run again goes on where it was; with more --trials or --seeds it adds to what is there.
"""

import os
import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass

from harness import cli, remote
from harness.errors import Mistake, exit_status, redacted

# Torch, Ray, Optuna and MLflow are imported where they are used: names and arguments are checked before.


@dataclass(frozen=True)
class Plan:
    """What a command asks for, checked. studies: study name -> cell, in the order of the space."""

    space_name: str
    space: object
    studies: dict[str, object]
    trials: int
    seeds: int
    sweep: str

    @property
    def data(self) -> str:
        return next(iter(self.studies.values())).data

    @property
    def experiment(self) -> str:
        return f"{self.space_name}-{self.data}"


def arguments(words: list[str] | None = None) -> Namespace:
    p = cli.parser("harness.tune", __doc__, single=False)
    p.add_argument("--list", action="store_true", help="name the spaces and what each asks")
    p.add_argument("--dry-run", action="store_true", help="show cells, domains, trials and estimated cost; run nothing")
    p.add_argument("--trials", type=int, help="trials per cell (default: the space's)")
    p.add_argument("--seeds", type=int, help="seeds of each winner (default: the space's)")
    p.add_argument("--cpus", type=float, default=1, help="CPU cores per trial (default 1)")
    p.add_argument("--gpus", type=float, help="GPUs per trial, fractions allowed (default 1 on a GPU device)")
    p.add_argument(
        "--time-limit", type=float, metavar="SECONDS", help="a trial not done by then has failed (default: none)"
    )
    p.add_argument(
        "--tracking-uri", help="MLflow store or server (default $MLFLOW_TRACKING_URI, else sqlite:///<out>/mlflow.db)"
    )
    p.add_argument("--address", help="Ray cluster: auto, or ray://HOST:10001 (default: one here)")
    return p.parse_args(words)


def plan(args: Namespace) -> Plan:
    """The studies of the command. Raises `Mistake` for anything unknown in it."""
    for name in ("trials", "seeds"):
        if (value := getattr(args, name)) is not None and value < (1 if name == "trials" else 0):
            raise Mistake(f"--{name} must be at least {1 if name == 'trials' else 0}, not {value}")
    if args.time_limit is not None and not 0 < args.time_limit < float("inf"):
        raise Mistake(f"--time-limit must be a number of seconds, not {args.time_limit:g}")
    for name in ("cpus", "gpus"):
        if (value := getattr(args, name)) is not None and not 0 <= value < float("inf"):
            raise Mistake(f"--{name} must not be negative, not {value:g}")
    if args.device not in (None, "cpu", "cuda"):
        raise Mistake(f"--device takes cpu or cuda here, not {args.device!r}; Ray chooses among several GPUs")
    if args.device == "cpu" and args.gpus:
        raise Mistake("--device cpu and --gpus contradict each other; leave one out")
    if args.space is None:
        raise Mistake(f"name a space: --space {' | '.join(cli.spaces())}")
    space = cli.space(args.space)
    cells = space.cells(cli.overrides(args))
    studies = {f"{args.space}-{c.data}/{c.name} @{space.digest(c)}-{args.seed}": c for c in cells}
    trials = space.trials if args.trials is None else args.trials
    seeds = space.seeds if args.seeds is None else args.seeds
    return Plan(args.space, space, studies, trials, seeds, _sweep(studies))


def _sweep(studies: dict[str, object]) -> str:
    import hashlib

    return hashlib.sha256("\n".join(studies).encode()).hexdigest()[:8]


def main() -> int:
    args = arguments()
    if args.list:
        for name in cli.spaces():
            print(f"{name:<12} {cli.about(name)}")
        return 0
    planned = plan(args)
    remote.check_paths(args)
    if remote.is_outside(args.address):
        return remote.run(args.address or os.environ["RAY_ADDRESS"], sys.argv[1:])
    place = cli.place(args)
    _check_data(planned, place)
    if args.dry_run:
        print(_dry_run(planned, place))
        return 0
    return sweep(planned, place, args)


def _check_data(planned: Plan, place) -> None:
    """Decode the data once, before any worker needs it, and see that it has what the cells ask for."""
    from harness import datasets, maps, measuring, models
    from harness.errors import unknown

    for cell in planned.studies.values():
        if cell.trial.model not in models.MODELS:
            raise unknown("model", cell.trial.model, models.MODELS)
        data = datasets.load(cell.trial.data, place)
        maps.check(cell.trial, data)
        measuring.check(cell.trial, data)


def _dry_run(planned: Plan, place) -> str:
    """Cells and domains, how many trials, and what they cost."""
    from harness.space import spoken

    lines = [f"{planned.space_name} on {planned.data}: {cli.about(planned.space_name)}", ""]
    for cell in planned.studies.values():
        control = "  (control)" if cell.control else ""
        lines.append(f"{cell.name}{control}: {cell.trial.model}, {cell.trial.epochs} epochs")
        for path, value in cell.published().items():
            lines.append(f"    {path:<16} {spoken(path, cell.search[path])}; published {spoken(path, value)}")
    cells = len(planned.studies)
    least = "at least " if len(planned.space.goals) > 1 else ""  # all of a front is repeated
    lines += [
        "",
        f"{cells} cells x {planned.trials} trials = {cells * planned.trials} trials,"
        f" goal {', '.join(planned.space.goals)};"
        f" then {planned.seeds} seeds of each winner = {least}{cells * planned.seeds} trials, tested once each",
        _cost(planned, place),
    ]
    return "\n".join(lines)


def _cost(planned: Plan, place) -> str:
    """Device time at most, from a training step of each method; teachers and their maps are not in it."""
    from harness import datasets, maps, measuring
    from harness.bench.epochs import epoch_seconds

    known: dict[object, float] = {}

    def seconds_per_image(trial, shape: tuple[int, ...]) -> float:
        kind = (trial.method, trial.model, trial.batch, shape)
        if kind not in known:
            known[kind] = epoch_seconds(trial, trial.batch, shape, place.device) / trial.batch
        return known[kind]

    training = measured = 0.0
    for cell in planned.studies.values():
        trial, data = cell.trial, datasets.load(cell.trial.data, place)
        shape = tuple(data.val.x.shape[1:])  # as cropped
        runs = planned.trials + planned.seeds
        training += runs * trial.epochs * len(data.train) * seconds_per_image(trial, shape)
        plain = maps.teacher_trial(trial, "standard")
        passes = measuring.image_passes(trial, len(data.val), len(data.test))
        measured += seconds_per_image(plain, shape) * (runs * passes["val"] + planned.seeds * passes["test"])
    return (
        f"at most about {(training + measured) / 60:.1f} minutes of one {place.device} device"
        f" ({training / 60:.1f} to train, {measured / 60:.1f} to measure), by one step of each method;"
        " teachers and their maps come on top"
    )


def sweep(planned: Plan, place, args: Namespace, listeners: Sequence = ()) -> int:
    """Run the plan to its report, with further listeners if any. Returns the command's exit status."""
    from harness import deliver

    uri = args.tracking_uri or deliver.default_uri(place)
    if place.store and uri.startswith("sqlite") and not args.tracking_uri:
        raise Mistake(f"SQLite cannot lie at {args.out!r}; name MLflow's server by --tracking-uri http://HOST:5000")
    with place.alone() as free:
        if not free:
            raise Mistake(f"another command is writing to {args.out!r}; wait for it, or choose another --out")
        with place.mirrored() as mirror:
            return _sweep_alone(planned, place, uri, mirror, args, listeners)


def _sweep_alone(planned: Plan, place, uri: str, mirror, args: Namespace, listeners: Sequence) -> int:
    from harness import deliver, track

    tracker = track.Tracker(place, planned.experiment, _tags(planned))
    with deliver.Delivery(uri, tracker.log, place, mirror.safe) as delivery:
        studies = _studies(planned, place, args, tracker)
        if not _searched(planned, place, args, studies, tracker, listeners):
            tracker.close("KILLED")
            mirror.push()
            print(f"interrupted; what is finished is kept. Go on: {_again()}", file=sys.stderr)
            return 130
        tracker.close()
        mirror.push()
        status = _report(planned, place, uri, tracker, studies) if delivery.caught_up() else 0
        mirror.push()
        delivery.caught_up()
    if complaint := delivery.complaint():
        print(f"error: {complaint}", file=sys.stderr)
        return 1
    return status


def _studies(planned: Plan, place, args: Namespace, tracker) -> list:
    """The study of every cell, where it was left, and the tracker told of it."""
    from harness import search
    from harness.space import spoken

    tracker.sweep(f"{planned.experiment} {planned.sweep}", _about(planned))
    for order, (study, cell) in reversed(list(enumerate(planned.studies.items()))):  # MLflow shows the newest first
        searched = {path: spoken(path, domain) for path, domain in cell.search.items()}
        tracker.study(study, cell.name, _study_tags(planned, cell, order), searched)
    storage = search.journal(place.out / "optuna.journal")
    return [
        search.Study(study, planned.space, cell, planned.trials, storage, args.seed)
        for study, cell in planned.studies.items()
    ]


def _searched(planned: Plan, place, args: Namespace, studies: list, tracker, listeners: Sequence) -> bool:
    """Run what is left of the studies and of the seeds of their winners. False after an interruption."""
    from harness import schedule, search
    from harness.display import Display

    source = search.Sweep(studies, planned.seeds, tracker.crown, tracker.is_complete)
    if not args.quiet:
        print(f"{planned.experiment}: {len(studies)} cells; results in {place.out}", flush=True)
    if source.finished():
        return True
    names = {study: cell.name for study, cell in planned.studies.items()}
    shown = [] if args.quiet else [Display(source.remaining, planned.space.goals[0], names)]
    gpus = args.gpus if args.gpus is not None else float(place.device.startswith("cuda"))
    schedule.connect(args.address)
    try:
        heard_by = [tracker, *shown, *listeners]
        return schedule.run_all(source, place, cpus=args.cpus, gpus=gpus, listeners=heard_by, limit=args.time_limit)
    finally:
        schedule.disconnect()
        for display in shown:
            display.finish()


def _tags(planned: Plan) -> dict[str, str]:
    from harness import track

    return {
        "harness.sweep": planned.sweep,
        "harness.space": planned.space_name,
        "harness.data": planned.data,
        **track.environment(),
    }


def _about(planned: Plan) -> str:
    """The sweep in Markdown, for MLflow's page of its run."""
    cells = ", ".join(f"`{cell.name}`" for cell in planned.studies.values())
    return (
        f"{cli.about(planned.space_name)}\n\n`--space {planned.space_name}` on `{planned.data}`, goal"
        f" {', '.join(planned.space.goals)}. A run below this one for every cell: {cells}. In each of them its trials"
        " (`search`) and the winner repeated over seeds (`seed`). The leaderboard is under Artifacts, `report`."
    )


def _study_tags(planned: Plan, cell, order: int) -> dict[str, str]:
    import json

    from harness.space import plain

    domains = {f"harness.space.{path}": json.dumps(plain(domain)) for path, domain in cell.search.items()}
    return {
        **domains,
        "harness.order": str(order),
        "harness.goal": ",".join(planned.space.goals),
        "harness.floor": ", ".join(f"{name} {least:g}" for name, least in planned.space.floor.items()),
        "harness.control": str(cell.control).lower(),
        "mlflow.note.content": f"**{cell.name}** of {planned.experiment}. {cli.about(planned.space_name)}",
    }


def _report(planned: Plan, place, uri: str, tracker, studies: list) -> int:
    """Write and print the leaderboard, and say where everything is."""
    from reports import artifacts, leaderboard, runs, write

    table = runs.read(uri, planned.experiment, planned.sweep)
    files = artifacts.read(uri, table)
    board = leaderboard.table(table, files)
    written = write(table, place.out / "reports", planned.experiment, files, board)
    for study, cell in planned.studies.items():
        tracker.reported(study, leaderboard.figures(board, cell.name))
    tracker.attach(written)
    print(leaderboard.text(board))
    print()
    for file in written:
        print(f"report: {file}")
    print(f"studies: optuna-dashboard {place.out / 'optuna.journal'}")
    print(f"runs: mlflow ui --backend-store-uri {redacted(uri)}")
    empty = [study.cell.name for study in studies if not study.winners()]
    if empty:
        print(f"no finished trial in: {', '.join(empty)}", file=sys.stderr)
        return 1
    return 0


def _again() -> str:
    import shlex

    return f"python -m harness.tune {redacted(shlex.join(sys.argv[1:]))}"


if __name__ == "__main__":
    sys.exit(exit_status(main))
