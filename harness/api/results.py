"""What the functions of `harness.api` return: scores of a trial or net, and the report of a sweep, shown as HTML."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from harness.config.trial import Trial
from harness.errors import unknown_name
from harness.evaluation.checks.evidence import Check
from harness.evaluation.scores import Score
from harness.storage.workspace import Workspace
from harness.trials.result import Result

if TYPE_CHECKING:
    import pandas as pd

    from reports.analyse.rows import Leaderboard
    from reports.present.figures import Figure, Spread

ALIASES = {"accuracy": "strength"}  # names of figures that users look for, and their keys in a report


@dataclass(frozen=True)
class Drawing:
    """A figure, which a notebook shows. html: for any other page."""

    html: str = field(repr=False)

    def _repr_html_(self) -> str:
        return self.html


@dataclass(frozen=True, repr=False)
class _Measured:
    """Scores by name, such as `val/robust`."""

    scores: Mapping[str, Score]

    def table(self) -> "pd.DataFrame":
        """A row per score: mean, stderr, n (images counted)."""
        import pandas as pd

        rows = {name: {"mean": s.mean, "stderr": s.stderr, "n": s.n} for name, s in self.scores.items()}
        return pd.DataFrame.from_dict(rows, orient="index", columns=["mean", "stderr", "n"]).rename_axis("score")

    def __repr__(self) -> str:
        return str(self.table().to_string(float_format=_four_digits))

    def _repr_html_(self) -> str:
        return str(self.table().to_html(float_format=_four_digits))


def _four_digits(number: float) -> str:
    return f"{number:.4f}"


@dataclass(frozen=True, repr=False)
class Run(_Measured):
    """A finished trial. scores: by name, with values per image, as `scores["val/clean"].mean`."""

    trial: Trial
    result: Result
    workspace: Workspace

    def curve(self) -> "pd.DataFrame":
        """A row per epoch: its losses, seconds and, now and then, scores on validation images."""
        import pandas as pd

        return pd.DataFrame(self.result.rows).set_index("epoch")

    def net(self) -> nn.Module:
        """The trained net, in evaluation mode: images (N, C, H, W) in [0, 1] to logits (N, classes)."""
        from harness.trials.run import trained_model

        return trained_model(self.trial, self.workspace)[0]


@dataclass(frozen=True, repr=False)
class Evaluation(_Measured):
    """Scores of a net. checks: their verdicts (`passed`: None if not asked). file: where they are stored."""

    checks: Sequence[Check]
    file: Path


@dataclass(frozen=True, eq=False, repr=False)
class Report:
    """The report of a sweep. files: its page and tables, where they were written."""

    _runs: "pd.DataFrame"
    _leaderboard: "Leaderboard"
    _trial: "Callable[[str, str], Trial]"  # of a run id and a key
    files: tuple[Path, ...] = ()

    def table(self) -> "pd.DataFrame":
        """A row per cell, best first, with all that the report's CSV has, such as `cell`, `test/robust` and `group`."""
        from reports.write.csv import to_frame

        return to_frame(self._leaderboard)

    @property
    def best(self) -> dict[str, Trial]:
        """The winning trial of every finished cell, best first; its seed is that of the first of the seed runs."""
        from reports.analyse import counted_runs

        tested = counted_runs.tested(self._runs).sort_values("number", kind="stable").drop_duplicates("row")
        runs = {run["row"]: (run["run_id"], run["key"]) for run in tested.to_dict("records")}
        return {row.name: self._trial(*runs[row.name]) for row in self._leaderboard.finished}

    @property
    def figures(self) -> tuple[str, ...]:
        """The names of the figures."""
        return (*(name for name, key in ALIASES.items() if key in self._items), *self._items)

    def figure(self, name: str) -> Drawing:
        """A figure by its name in `figures`, such as "accuracy" (against eps), "fronts" or "learning"."""
        from reports.write import notebook

        key = ALIASES.get(name, name)
        if key not in self._items:
            raise unknown_name("figure", name, self.figures)
        return Drawing(notebook.figure(self._items[key]))

    @cached_property
    def _items(self) -> "dict[str, Figure | Spread]":
        from reports.present.figures import Figure, Spread
        from reports.present.sections import all_sections
        from reports.read.artifacts import Files

        parts = all_sections(self._runs, self._leaderboard, Files())
        return {item.key: item for part in parts for item in part.items if isinstance(item, Figure | Spread)}

    def _repr_html_(self) -> str:
        from reports.present import tables
        from reports.write import notebook

        shown = [tables.ranking(self._leaderboard), tables.unfinished(self._leaderboard)]
        return "".join(notebook.table(table) for table in shown if table.rows)

    def __repr__(self) -> str:
        from reports.write import terminal

        return terminal.text(self._leaderboard)
