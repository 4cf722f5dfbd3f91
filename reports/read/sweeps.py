"""The sweeps of an MLflow experiment: when each was written last, with what settings, and how much it holds."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.errors import printable

if TYPE_CHECKING:
    from mlflow.entities import Run

ENDED = ("complete", "pruned", "failed")


@dataclass(frozen=True)
class Sweep:
    """A sweep in one output folder, whose event log has the id `log`; the same sweep may be in several.

    settings: of the command, as text; "" for the plain command, and for runs of earlier versions. written: time of the
    last start or end of one of its runs, in milliseconds since 1970. cells, trials, seeds: numbers of cells that the
    space has, and of their runs that ended.
    """

    id: str
    log: str
    settings: str
    written: int
    cells: int
    trials: int
    seeds: int

    def __str__(self) -> str:
        when = time.strftime("%Y-%m-%d %H:%M", time.gmtime(self.written / 1000))
        held = f"{self.cells} cells, {self.trials} trials, {self.seeds} seed runs"
        return printable(f"{self.id}  {when} UTC  {held}  {self.settings}".rstrip())


def key(run: "Run") -> tuple[str, str]:
    """Sweep and event log of a run."""
    return run.data.tags.get("harness.sweep", ""), run.data.tags.get("harness.log", "")


def in_use(studies: Iterable["Run"]) -> list["Run"]:
    """The studies that no newer one of their cell supersedes, of cells that their space has."""
    return [s for s in studies if not (s.data.tags.get("harness.superseded") or s.data.tags.get("harness.removed"))]


def sweeps(studies: Sequence["Run"], others: Sequence["Run"]) -> list[Sweep]:
    """The sweeps of an experiment, the one that was written last first. others: its runs but the studies."""
    of = {study.info.run_id: key(study) for study in studies}
    of |= {study.data.tags["mlflow.parentRunId"]: key(study) for study in studies if _parent(study)}
    written = dict.fromkeys(of.values(), 0)
    for run in (*studies, *others):
        if found := of.get(run.info.run_id) or of.get(_parent(run)):
            written[found] = max(written[found], run.info.start_time or 0, run.info.end_time or 0)
    settings = {key(study): study.data.tags.get("harness.settings", "") for study in studies}
    used = in_use(studies)
    result = []
    for sweep in sorted(written, key=lambda sweep: -written[sweep]):
        cells = {study.info.run_id for study in used if key(study) == sweep}
        runs = [run.data.tags for run in others if _parent(run) in cells]
        roles = [tags.get("harness.role") for tags in runs if tags.get("harness.state") in ENDED]
        counts = roles.count("search"), roles.count("seed")
        result.append(Sweep(*sweep, settings[sweep], written[sweep], len(cells), *counts))
    return result


def _parent(run: "Run") -> str:
    return run.data.tags.get("mlflow.parentRunId", "")
