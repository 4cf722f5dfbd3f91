"""The harness in Python, as in a notebook: run a trial, tune a space, evaluate a net, read a report.

    result = tune("sat_family", data="digits", trials=4)
    result.table(), result.best, result.figure("accuracy")

What `__all__` names is kept from version to version; all else in the project may change. Bad input raises `UserError`
with the line that the commands print. Ray, MLflow and pandas are imported by the functions that need them.
"""

import argparse
import dataclasses
import re
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from harness import cli
from harness.api import given_data
from harness.api.given_data import Folder, Placed
from harness.api.results import Evaluation, Report, Run
from harness.arguments import MOST, whole
from harness.config.search_domains import choice, integer, log, ordered, times, uniform, within
from harness.config.space import NamedSpace, Space
from harness.config.trial import Trial, build
from harness.data.own import OwnData as Data
from harness.duration import seconds_of
from harness.errors import UserError, nearest, shown
from harness.storage.workspace import Workspace
from methods import Setting

__all__ = [
    "Data",
    "Evaluation",
    "Report",
    "Run",
    "Space",
    "Trial",
    "UserError",
    "build",
    "choice",
    "evaluate",
    "integer",
    "log",
    "ordered",
    "report",
    "run",
    "times",
    "tune",
    "uniform",
    "within",
]
Settings = Mapping[str, Setting]


def run(
    trial: Trial | Settings,
    *,
    data: str | Data | None = None,
    test: bool = False,
    out: Folder = "runs",
    data_root: Folder | None = None,
    device: str | None = None,
    quiet: bool = False,
) -> Run:
    """Train and validate one trial, and with `test` measure it on the test images. Steps done before are not repeated.

    trial: settings by dotted path, or what `build` makes of them. data: a name, or data of your own, which are stored
    below `out` and keep their size unless `data.size` is set. out, data_root: folders or URIs, as of the commands.
    device: default a GPU if there is one. quiet: print no line per epoch. Raises `Diverged` for a loss that is not
    finite.
    """
    from harness.trial import print_row
    from harness.trials.nets import no_report
    from harness.trials.run import run_alone

    there = _placed(data, out, data_root, trial)
    built = trial if isinstance(trial, Trial) else build({**trial, **there.settings})
    workspace = given_data.workspace(out, there.root, device, built.data.name)
    result = run_alone(built, workspace, report=no_report if quiet else print_row, test=test)
    return Run({s.name: s for s in result.scores}, built, result, workspace)


def tune(
    space: Space | str,
    *,
    data: str | Data | None = None,
    cells: Sequence[str] = (),
    settings: Settings | None = None,
    trials: int | None = None,
    seeds: int | None = None,
    seed: int = 0,
    workers: int | None = None,
    name: str = "study",
    out: Folder = "runs",
    data_root: Folder | None = None,
    device: str | None = None,
    quiet: bool = False,
    **options: Any,
) -> Report:
    """Search the settings of every cell of a space, repeat the winners with fresh seeds, test these once; the report.

    The same call continues what was interrupted, and adds trials, seeds or cells to what is finished. space: a space,
    or the name of one of `search_spaces`. cells: names, all by default. settings: fixed in all cells. trials: per cell.
    seeds: per winner. seed: of the search. workers: at most so many trials at once. name: of a space of your own, for
    its experiment. options: the further options of `harness.tune`, such as `cpus`, `gpus`, `budget` (seconds,
    or `"2h"`), `address`, `tracking_uri`, `keep`. Raises `KeyboardInterrupt` when interrupted; finished trials stay.
    """
    from harness import sweep_driver
    from harness.storage.driver_lock import DriverLost
    from harness.sweep import ray_addresses
    from harness.sweep.request import Request

    if not isinstance(space, Space | str):
        raise UserError(f"a space is a Space, or the name of one, not a {type(space).__name__}")
    own = [space.base, *space.compare.values()] if isinstance(space, Space) else []
    there = given_data.placed(data, out, data_root, [settings or {}, *own])
    asked = Request(
        space=NamedSpace(_own_name(name), space) if isinstance(space, Space) else space,
        cells=(cells,) if isinstance(cells, str) else tuple(cells),
        settings={**(settings or {}), **there.settings},
        trials=_whole("trials", trials, 1),
        seeds=_whole("seeds", seeds, 0),
        seed=_whole("seed", seed, -cli.SEED, cli.SEED) or 0,
        workers=_whole("workers", workers, 1),
        out=str(out),
        data_root=there.root,
        device=device,
        quiet=quiet,
        **_options(options),
    )
    if ray_addresses.is_outside(asked.address):
        raise UserError("a notebook outside of a cluster cannot tune there; run it on a node, with address HOST:6379")
    planned, workspace = sweep_driver.prepared(asked)
    if planned.note and not quiet:
        print(planned.note, flush=True)
    try:
        swept = sweep_driver.run(planned, workspace)
    except DriverLost as error:
        raise UserError(str(error)) from None
    if swept.report is None:
        raise KeyboardInterrupt("interrupted; finished trials are stored, and the same call continues")
    if swept.undelivered:
        warnings.warn(swept.undelivered, stacklevel=2)
    return Report(swept.report.table, swept.report.leaderboard, _stored_in(workspace), swept.report.files)


def evaluate(
    net: nn.Module | Trial | Settings,
    suite: str | Sequence[str] = "standard",
    data: str | Data | None = None,
    *,
    test: bool = False,
    images: int = 0,
    settings: Settings | None = None,
    features: str | None = None,
    out: Folder = "runs",
    data_root: Folder | None = None,
    device: str | None = None,
    quiet: bool = False,
) -> Evaluation:
    """Measure a net, or that of a trial, by one or several suites, on validation or, with `test`, on test images.

    net: a module from images (N, C, H, W) in [0, 1] to logits (N, classes), of which a copy is measured; or a trial,
    which is trained if it never was. data: of a module. images: only the first so many (0: all). settings: `measure.*`
    and `attribution.*`, for a module also `data.*`. features: its last feature layer, for class activation maps.
    Results are stored, and not measured again. The other arguments are those of `run`.
    """
    from harness.evaluation.evaluator import no_progress
    from harness.sweep.progress import EvaluationProgress
    from harness.trials import evaluate_stored

    names = (suite,) if isinstance(suite, str) else tuple(suite)
    changed = {**(settings or {}), "measure.suites": ",".join(names)}
    there = _placed(data, out, data_root, changed if isinstance(net, nn.Module) else net)
    if isinstance(net, nn.Module):
        if not there.name:
            raise UserError("name the data that the net is measured on: data='cifar10'")
        requested = build({**changed, **there.settings})
        workspace = given_data.workspace(out, there.root, device, there.name)
        target = evaluate_stored.net_target(net, requested, workspace, features)
    else:
        if other := [path for path in changed if not path.startswith(("measure.", "attribution."))]:
            raise UserError(f"{other[0]} is fixed by the trial; only measure.* and attribution.* can be set")
        trial = net if isinstance(net, Trial) else build({**net, **there.settings})
        requested = build({**trial.flat(), **changed})
        workspace = given_data.workspace(out, there.root, device, trial.data.name)
        target = evaluate_stored.trial_target(trial, requested, workspace)
    counter = EvaluationProgress()
    evaluation = evaluate_stored.evaluate(
        target,
        requested,
        workspace,
        split="test" if test else "val",
        images=_whole("images", images, 0) or 0,
        progress=no_progress if quiet else counter,
    )
    counter.close()
    return Evaluation({s.name: s for s in evaluation.scores}, evaluation.checks, evaluation.file)


def report(where: Folder = "runs", experiment: str | None = None, *, sweep: str | None = None) -> Report:
    """The report of an experiment, by default the only one; of its sweep that was written last, or of the one named.

    where: the output folder of a sweep, or an MLflow store or server, such as `http://127.0.0.1:5000`.
    """
    from harness.tracking.mlflow_client import sqlite_uri
    from reports.analyse import counted_runs
    from reports.analyse.leaderboard import build_leaderboard
    from reports.read import runs

    is_store = "://" in str(where)
    uri = str(where) if is_store else sqlite_uri(Path(where).absolute() / "mlflow.db")
    if experiment is None:
        known = runs.experiments(uri)
        if len(known) != 1:
            raise UserError(f"name the experiment; there are: {', '.join(known) or 'none'}")
        (experiment,) = known
    table = runs.read(uri, experiment, sweep)
    trials = _logged_at(uri) if is_store else _stored_in(cli.local_workspace(str(where)))
    return Report(table, build_leaderboard(table, counted_runs.read_files(uri, table)), trials)


def _stored_in(workspace: Workspace) -> Callable[[str, str], Trial]:
    """How to read a trial, of a run id and a key, from an output folder."""
    from harness.trials.evaluate_stored import load_trial

    return lambda run, key: load_trial(key, workspace)


def _logged_at(uri: str) -> Callable[[str, str], Trial]:
    """How to read a trial, of a run id and a key, from an MLflow store."""
    from reports.read import record

    def trial(run: str, key: str) -> Trial:
        with tempfile.TemporaryDirectory() as folder:
            return record.read(uri, run, Path(folder)).result.trial

    return trial


def _own_name(name: str) -> str:
    """The name of a space of one's own. Raises `UserError` for one of ours, or that could be no experiment's."""
    if name in cli.spaces():
        raise UserError(f"name {shown(name)} is that of a space of search_spaces; choose another")
    if not re.fullmatch(r"\w[\w.-]{0,99}", name):
        raise UserError(f"name takes letters, digits, . - and _, not {shown(name)}")
    return name


def _placed(data: str | Data | None, out: Folder, data_root: Folder | None, settings: Trial | Settings) -> Placed:
    """The data of a trial's settings. Raises `UserError` for data beside a trial, which has its own."""
    if isinstance(settings, Trial):
        if data is not None:
            raise UserError("the data of a trial are a part of it; give settings in its place, and data beside them")
        return given_data.placed(None, out, data_root)
    if not isinstance(settings, Mapping):
        raise UserError(f"a trial is given by its settings, such as {{'method': 'sat'}}, not by {shown(settings)}")
    return given_data.placed(data, out, data_root, [settings])


def _whole(name: str, value: int | None, least: int, most: int = MOST) -> int | None:
    """A whole number, or None. Raises `UserError` for anything else."""
    try:
        return None if value is None else whole(least, most)(str(value))
    except argparse.ArgumentTypeError as error:
        raise UserError(f"{name} {error}") from None


def _options(given: Mapping[str, Any]) -> Mapping[str, Any]:
    """Further fields of a request. Raises `UserError` for one that there is not, or of another type."""
    from harness.sweep.request import Request

    known = {field.name: field.type for field in dataclasses.fields(Request)}
    given = {name: _seconds(value) if name == "budget" else value for name, value in given.items()}
    for name, value in given.items():
        if name not in known:
            raise UserError(f"tune has no {name!r}; {nearest(name, known)}")
        kind: Any = known[name]
        if not isinstance(value, kind) and not (type(value) is int and isinstance(0.0, kind)):
            raise UserError(f"{name} takes {getattr(kind, '__name__', kind)}, not {shown(value)}")
    return given


def _seconds(budget: Any) -> Any:
    """A budget as it is, or as seconds if it is a text that commands take. Raises `UserError` for another text."""
    try:
        return seconds_of(budget) if isinstance(budget, str) else budget
    except UserError as error:
        raise UserError(f"budget {error}") from None
