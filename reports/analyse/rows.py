"""A leaderboard and what it holds: rows, and the figures of each.

Scores are means over seed runs: shares in [0, 1], correlations in [-1, 1], sides of a bound in their own unit. A half
is the half-width of a 95 % interval, NaN if it is unknown, as for one seed. Unknown numbers are NaN."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from reports.analyse.curves import Gap
from reports.analyse.other_selection_rules import Rule
from reports.analyse.stats import Paired
from reports.read import score_names


@dataclass(frozen=True)
class Images:
    """How many images of a run an attribution score is of, means over the seed runs; None if no run recorded it.

    counted; wrong: misclassified and so not attacked; dropped; failed: attacked without success."""

    counted: float | None = None
    wrong: float | None = None
    dropped: float | None = None
    failed: float | None = None

    @property
    def dropped_share(self) -> float:
        """Share of the attacked images that were dropped; NaN if unknown."""
        if self.dropped is None or self.counted is None:
            return math.nan
        attacked = self.counted + self.dropped
        return self.dropped / attacked if attacked else math.nan


@dataclass(frozen=True)
class Resampled:
    """Over `stats.SEEDS` seeds or more: bootstrap interval of the mean, interquartile mean and its own interval."""

    low: float = math.nan
    high: float = math.nan
    iqm: float = math.nan
    iqm_low: float = math.nan
    iqm_high: float = math.nan


@dataclass(frozen=True)
class Published:
    """The comparable figure of a paper. id: its line in `published.figures`; value: a share; source: paper and table.

    difference: measured minus published. covered: whether the measured interval contains it; None without one."""

    id: int
    value: float
    difference: float
    covered: bool | None
    source: str
    note: str


@dataclass(frozen=True)
class Figure:
    """A score of a row on test. seeds: runs that have it; for IN none if no image could be attacked.

    measured: whether a run measured it, be it on no image. versions: of measuring, of the runs that have it; version:
    the oldest. best: indistinguishable from the best of all rows (`rank_groups.best`). images: of IN and K. resampled:
    of the ranked score."""

    mean: float = math.nan
    half: float = math.nan
    seeds: int = 0
    measured: bool = False
    versions: tuple[int, ...] = ()
    best: bool = False
    images: Images = field(default_factory=Images)
    published: Published | None = None
    resampled: Resampled | None = None

    @property
    def version(self) -> int:
        return min(self.versions, default=1)


@dataclass(frozen=True)
class WithRandomWeights:
    """A map of a row beside that of the net with random weights (check `depends_on_weights`), means over seed runs.

    rank, ssim: rank correlation and structural similarity of the two maps; rank_random, ssim_random: of the maps of two
    nets with random weights. seeds: runs that were checked; depends: those of them whose map depends on the weights."""

    rank: float
    ssim: float
    rank_random: float
    ssim_random: float
    seeds: int
    depends: int


@dataclass(frozen=True)
class Setting:
    """A searched setting of a winner: its value as text (several are an error, and all are shown), and its domain."""

    values: tuple[str, ...]
    domain: str

    @property
    def text(self) -> str:
        """The value, or all, separated by |."""
        return " | ".join(self.values)


@dataclass(frozen=True)
class Trials:
    """Number of search trials by state."""

    complete: int
    pruned: int
    failed: int
    running: int


@dataclass(frozen=True)
class Seconds:
    """Device-seconds: means over the seed runs by phase, and for training and evaluation of all complete runs."""

    teacher: float
    maps: float
    train: float
    evaluation: float
    all_runs: float


@dataclass(frozen=True)
class Cost:
    """What a row took, search included. touches: test evaluations over all its runs."""

    trials: Trials
    seeds_failed: int
    touches: int
    seconds: Seconds


@dataclass(frozen=True)
class Difference:
    """The ranked score minus that of the control, by Welch; NaN for the control itself, and without one."""

    mean: float = math.nan
    half: float = math.nan


@dataclass(frozen=True)
class Row:
    """A winner of a cell, or a cell without scores yet.

    name: the cell's, with the winner's number if it has several. place: its position in the space. winner: the trial
    key. group: rank group by the ranked score (`rank_groups.tied`), from 1, None without scores. seeds: number of seed
    runs. not_finished: why the row has no scores yet, else "". val: the ranked score on validation, of the same runs.
    val_images, test_images: how many a score was measured on. front: whether on the Pareto front of several goals; None
    for a single goal or if a goal is missing. doubts: checks with verdict "doubt" in any seed run; None if none was
    run. random_weights: by the name of a map. gap: between best and last epoch. paired: the ranked score image by image
    minus that of the first row, p with Holm's correction over the rows."""

    name: str
    cell: str
    place: int
    control: bool
    method: str
    data: str
    cost: Cost
    figures: Mapping[str, Figure]
    seeds: int = 0
    not_finished: str = ""
    winner: str = ""
    group: int | None = None
    front: bool | None = None
    val: float = math.nan
    val_images: float = math.nan
    test_images: float = math.nan
    settings: Mapping[str, Setting] = field(default_factory=dict)
    difference: Difference = Difference()
    doubts: tuple[str, ...] | None = None
    random_weights: Mapping[str, WithRandomWeights] = field(default_factory=dict)
    rule: Rule | None = None
    gap: Gap | None = None
    paired: Paired | None = None

    def figure(self, score: str) -> Figure:
        """The figure of a score, a missing one if it was not measured."""
        return self.figures.get(score, Figure())


@dataclass(frozen=True)
class Leaderboard:
    """The rows of a sweep: best first, those without scores last.

    ranked_by: the score `test/...` that orders them. goals: the test counterparts of the goals of the search, the
    ranked one first. scores: every score measured on test, goals first. control: name of the row that differences refer
    to, the first control's; "" if it has no scores. removed: cells that the space has no more, and what there is of
    each; they are in no row. ends: what ended the search before all trials."""

    rows: tuple[Row, ...]
    ranked_by: str
    goals: tuple[str, ...]
    scores: tuple[str, ...] = ()
    control: str = ""
    removed: tuple[tuple[str, str], ...] = ()
    ends: tuple[str, ...] = ()

    @property
    def finished(self) -> list[Row]:
        """The rows that have scores."""
        return [row for row in self.rows if row.seeds]

    @property
    def shown(self) -> list[str]:
        """The scores that tables show: the goals, and all others except minor ones."""
        return [name for name in self.scores if not score_names.is_minor(name) or name in self.goals]
