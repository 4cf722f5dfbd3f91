"""Read the runs of an MLflow experiment into one DataFrame."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from harness.errors import UserError, printable, short_name, unknown_name
from harness.evaluation.metrics import declare_text
from harness.tracking.logged_runs import logged_runs
from harness.tracking.mlflow_client import opened_reader, search_experiments, search_runs
from reports.read import sweeps
from reports.read.sweeps import Sweep

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

STORE = "sqlite:///runs/mlflow.db"
ARTIFACTS_HELP = "also read artifacts in this folder of this machine, besides the store's own; may be repeated"
FACTS = (
    *("run_id", "sweep", "study", "cell", "order", "control", "goal", "floor", "winners", "duplicates", "search_end"),
    *("role", "state", "number", "key", "winner", "reason", "started", "protocol", "artifacts"),
)
TAGS = ("git", "sources", "package.", "device", "threads", "python", "data.")  # provenance: `tag:git` and so on
NAME, TEXT = 200, 500  # characters of a name and a value, and of any other text, that a report shows
LONG = 20_000  # characters of a text that it parses
PARSED = ("curve:", "space:", "winners", "goal", "floor", "artifacts")
NAMES = ("cell", "param:", "tag:", "sweep", "study", "key")
PAGE = 5000  # runs per request; MLflow allows up to 50,000, which a server answers slowly


def experiments(uri: str) -> list[str]:
    """The names of all experiments at a tracking URI, sorted. Raises `UserError` if it cannot be read."""
    with opened_reader(uri) as client:
        return _names(client)


def read(uri: str, experiment: str, sweep: str | None = None) -> pd.DataFrame:
    """One row per child run of one sweep of an experiment; unless one is named, of that which was written last.

    Columns: run_id, sweep, study, cell, order (position in the space), control, goal, duplicates (proposals that
    were not run, since an earlier trial of the study had the same settings), search_end (what ended the search before
    all trials), role (`search` or `seed`),
    state (`complete`, `pruned`, `failed`, `running`), number, key, reason, started (UTC), protocol (version
    of training), artifacts (URI), then `param:<path>` as text, among them `param:search.<path>`, the study's
    search domain as text, `space:<path>`, the same as JSON, `check:<name>`, the verdict of a check of the test scores,
    `curve:<metric>`, the validation curve as `epoch:value epoch:value`, `tag:<name>`, provenance (git, package.torch,
    device, data.test, ...), then every metric's last value under its own name, and in every row the bytes of the
    sweep's output folder by kind, `disk/<kind>`. A study without child runs is one row of role `study` without state,
    so that no cell is lost; a study that a newer one of its cell supersedes has no row, nor has one whose cell the
    space has no more: where there are any, `removed` lists them in every row, a line for each (name, tab, what there
    is).
    Sorted by order, role, number and time. `attrs` of the table: `sweep`, a `Sweep`, and `of`, how many the experiment
    has. Raises `UserError` for an unknown experiment or sweep, one without a study,
    or a store that cannot be read."""
    with opened_reader(uri) as client:
        entry = client.get_experiment_by_name(experiment)
        if entry is None or entry.lifecycle_stage != "active":
            raise unknown_name("experiment", experiment, _names(client))
        studies = search_runs(client, [entry.experiment_id], "tags.harness.role = 'study'", PAGE)
        if not studies:
            raise UserError(f"experiment {experiment!r} has no study yet")
        children = search_runs(client, [entry.experiment_id], "tags.harness.role != 'study'", PAGE)
    return _table(studies, children, sweep)


def read_log(log: Path, out: Path) -> pd.DataFrame:
    """The table of `read` from the event log of a sweep, on disk; its artifacts are those of the trials in `out`.

    The runs have the names of the log instead of MLflow's ids. Raises `UserError` for a damaged line."""
    return _table(*_studies_and_others(logged_runs(log, out)))


def _table(studies: list["Run"], children: list["Run"], sweep: str | None = None) -> pd.DataFrame:
    """The table of `read`, from the runs of studies and all others of an experiment."""
    known = sweeps.sweeps(studies, children)
    chosen = next((found for found in known if sweep in (None, found.id)), None)
    if chosen is None:
        raise unknown_name("sweep", str(sweep), {found.id for found in known})
    of_sweep = [s for s in studies if sweeps.key(s) == (chosen.id, chosen.log)]
    of_sweep = [s for s in of_sweep if not s.data.tags.get("harness.superseded")]
    parents = {s.info.run_id: s for s in sweeps.in_use(of_sweep)}
    removed = [s for s in of_sweep if s.info.run_id not in parents]
    if not parents:  # a space without cells, as the sweep has it: all are shown
        parents, removed = {s.info.run_id: s for s in of_sweep}, []
    rows, seen = [], set()
    for child in children:
        parent = child.data.tags.get("mlflow.parentRunId")
        if parent in parents:
            rows.append(_row(parents[parent], child))
            seen.add(parent)
    rows += [_row(parent, parent) for run_id, parent in parents.items() if run_id not in seen]
    table = pd.DataFrame(rows).assign(**_disk(parents.values(), children))
    if removed:
        table["removed"] = "\n".join(_removed(study, children) for study in sorted(removed, key=_order))
    table["started"] = pd.to_datetime(table["started"], unit="ms", utc=True)
    table["number"] = pd.to_numeric(table["number"], errors="coerce").astype("Int64")
    table = table.sort_values(["order", "cell", "role", "number", "started", "run_id"], kind="stable")
    table = table[_ordered(table.columns)].reset_index(drop=True)
    table.attrs = {"sweep": chosen, "of": len(known)}
    return table


def sweeps_of(uri: str, experiment: str) -> list[Sweep]:
    """The sweeps of an experiment, the one that was written last first."""
    with opened_reader(uri) as client:
        entry = client.get_experiment_by_name(experiment)
        found = [] if entry is None else search_runs(client, [entry.experiment_id], "", PAGE)
    return sweeps.sweeps(*_studies_and_others(found))


def _studies_and_others(runs: Iterable["Run"]) -> tuple[list["Run"], list["Run"]]:
    studies: list[Run] = []
    others: list[Run] = []
    for run in runs:
        (studies if run.data.tags.get("harness.role") == "study" else others).append(run)
    return studies, others


def report_name(runs: pd.DataFrame, experiment: str) -> str:
    """Name of the report of a sweep: the experiment's, with the sweep's id unless it is that of the plain command."""
    settings = runs["tag:settings"].dropna() if "tag:settings" in runs else []
    return f"{experiment}-{runs['sweep'].iloc[0]}" if any(settings) else experiment


def together(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Merge the runs of several experiments. frames: experiment -> table of `read`.

    Cells whose name occurs twice are prefixed with their experiment's. Raises `UserError` if data sets or goals
    differ."""
    first, *others = frames
    for what, column in (("data set", "param:data"), ("goal", "goal")):
        values = {name: _first(frame, column) for name, frame in frames.items()}
        for other in others:
            if values[other] != values[first]:
                both = f"{first!r} has {values[first]!r}, {other!r} {values[other]!r}"
                raise UserError(f"experiments of different {what}s share no table: {both}")
    names = Counter(cell for frame in frames.values() for cell in frame["cell"].unique())
    parts = []
    for position, (experiment, frame) in enumerate(frames.items()):
        of = short_name(experiment, NAME)
        cells = frame["cell"].map(lambda cell, of=of: f"{of}: {cell}" if names[cell] > 1 else cell)
        parts.append(frame.assign(cell=cells, order=frame["order"] + position * 10**7))
    merged = pd.concat(parts, ignore_index=True)
    return merged[_ordered(merged.columns)]


def _first(frame: pd.DataFrame, column: str) -> str:
    texts = frame[column].dropna() if column in frame else []
    return str(next(iter(texts), ""))


def _row(parent: "Run", run: "Run") -> dict[str, object]:
    tags, study = run.data.tags, parent.data.tags
    row = {
        "run_id": run.info.run_id,
        "sweep": study.get("harness.sweep", ""),
        "study": study.get("harness.study", parent.info.run_id),
        "cell": study.get("harness.cell", parent.info.run_name),
        "order": _order(parent),
        "control": study.get("harness.control") == "true",
        "goal": study.get("harness.goal", ""),
        "floor": study.get("harness.floor", ""),
        "winners": study.get("harness.winners"),
        "duplicates": int(study.get("harness.duplicates") or 0),
        "search_end": study.get("harness.search_end") or None,
        "role": tags.get("harness.role", ""),
        "state": "" if run is parent else tags.get("harness.state", ""),
        "number": tags.get("harness.number"),
        "key": tags.get("harness.key", ""),
        "winner": tags.get("harness.winner"),
        "reason": tags.get("harness.reason", ""),
        "started": run.info.start_time,
        "protocol": tags.get("harness.protocol"),
        "artifacts": run.info.artifact_uri,
    }
    row |= {f"param:{path}": text for path, text in parent.data.params.items() if path.startswith("search.")}
    row |= {f"space:{path}": text for path, text in _tagged(study, "space.")}
    row |= {"tag:settings": study["harness.settings"]} if study.get("harness.settings") else {}
    if run is not parent:
        row |= {f"param:{path}": text for path, text in run.data.params.items()}
        for name, text in _tagged(tags, "metric."):  # of plug-ins
            declare_text(name, text)
        row |= {f"{kind}:{name}": text for kind in ("check", "curve") for name, text in _tagged(tags, f"{kind}.")}
        row |= {f"tag:{name}": text for name, text in _tagged(tags, "") if name.startswith(TAGS)}
        row |= run.data.metrics
    return {name: _bounded(name, value) for name, value in row.items() if len(name) <= TEXT}


def _bounded(column: str, value: object) -> object:
    """A value of the store, cut if it is a longer text than any of this harness."""
    if not isinstance(value, str):
        return value
    if not value.isascii():
        value = value.encode(errors="replace").decode()  # halves of letters, which no file can hold
    return short_name(value, LONG if column.startswith(PARSED) else NAME if column.startswith(NAMES) else TEXT)


def _order(study: "Run") -> int:
    order = study.data.tags.get("harness.order", "")
    return int(order) if re.fullmatch("[0-9]{1,6}", order) else 10**6


def _removed(study: "Run", children: Iterable["Run"]) -> str:
    """A cell that its space has no more, with the number of its runs that ended, and its goal where it was measured."""
    runs = [run.data.tags for run in children if run.data.tags.get("mlflow.parentRunId") == study.info.run_id]
    ended = Counter(tags.get("harness.role") for tags in runs if tags.get("harness.state") in ("complete", "pruned"))
    goal = study.data.tags.get("harness.goal", "").partition(",")[0].replace("val/", "test/")
    score = study.data.metrics.get(goal)
    measured = "" if score is None else f", {goal} {score:.3f}"
    name = printable(short_name(study.data.tags.get("harness.cell", study.info.run_name or ""), NAME))
    return f"{name}\t{ended['search']} trials, {ended['seed']} seed runs{measured}"


def _disk(studies: Iterable["Run"], runs: Iterable["Run"]) -> dict[str, float]:
    """The metrics `disk/<kind>` of the sweep's own run, the parent of these studies."""
    sweeps = {study.data.tags.get("mlflow.parentRunId") for study in studies}
    metrics = {name: value for run in runs if run.info.run_id in sweeps for name, value in run.data.metrics.items()}
    return {name: value for name, value in metrics.items() if name.startswith("disk/")}


def _tagged(tags: dict[str, str], kind: str) -> list[tuple[str, str]]:
    """(name, text) of the `harness.<kind>*` tags."""
    start = f"harness.{kind}"
    return [(tag.removeprefix(start), text) for tag, text in tags.items() if tag.startswith(start)]


def _ordered(columns: pd.Index) -> list[str]:
    """Facts first, then parameters and metrics sorted by name: the same runs give the same table."""
    params = sorted(c for c in columns if c.startswith("param:"))
    return [*FACTS, *params, *sorted(c for c in columns if c not in {*FACTS, *params})]


def _names(client: "MlflowClient") -> list[str]:
    return sorted(e.name for e in search_experiments(client) if e.name != "Default")
