"""Search: one Optuna study per cell, kept in a journal on disk.

The study is the only memory. Optuna proposes, and Optuna's asynchronous successive halving decides at each rung which
trial goes on, so a study taken up again remembers every rung. A trial stopped at a rung is told to Optuna as PRUNED
with the value and the epoch of that rung; only trials run to their full length are COMPLETE, compared, and can win.
"""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from harness.config import Trial
from harness.errors import Mistake
from harness.jobs import Job, Outcome
from harness.place import only_whole_lines
from harness.randomness import derive
from harness.space import Cell, Choice, Log, Space, Uniform
from harness.train import Row

_DONE = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


def journal(path: Path) -> BaseStorage:
    """The Optuna storage in that file; `optuna-dashboard PATH` shows it. Raises `Mistake` where it is damaged."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    path.parent.mkdir(parents=True, exist_ok=True)
    only_whole_lines(path)
    try:
        return JournalStorage(JournalFileBackend(str(path)))
    except OSError as error:
        raise Mistake(f"cannot open the journal {str(path)!r}: {error.strerror}") from None
    except Exception as error:  # a garbled line may fail anywhere in its replay
        raise Mistake(
            f"{str(path)!r} is no Optuna journal ({type(error).__name__}); move it away to start anew"
        ) from None


def distribution(domain: Uniform | Log | Choice) -> BaseDistribution:
    """The domain in Optuna's words."""
    if isinstance(domain, Choice):
        return CategoricalDistribution(domain.values)
    return FloatDistribution(domain.low, domain.high, log=isinstance(domain, Log))


class Study:
    """The search in one cell."""

    def __init__(self, name: str, space: Space, cell: Cell, budget: int, storage: BaseStorage, seed: int):
        self.name, self.cell, self.budget, self.goals, self.floor = name, cell, budget, space.goals, space.floor
        self._domains = {path: distribution(d) for path, d in cell.search.items()}
        self._optuna = optuna.create_study(
            study_name=name,
            storage=storage,
            load_if_exists=True,
            directions=["maximize"] * len(self.goals),
            pruner=self._rungs(space.halving),
        )
        self._open: dict[int, optuna.trial.Trial] = {}
        self._reported: dict[int, set[int]] = {}
        self._unfinished = self._adopted()
        if not any(t.state == TrialState.WAITING or t.params == cell.published() for t in self._optuna.trials):
            self._optuna.enqueue_trial(cell.published())
        self._started = len(self._finished()) + len(self._unfinished)
        self._seed = seed

    def _rungs(self, halving: int) -> optuna.pruners.BasePruner:
        if not halving or len(self.goals) > 1:  # one number decides at a rung; with several goals none is stopped
            return optuna.pruners.NopPruner()
        return optuna.pruners.SuccessiveHalvingPruner(
            min_resource=self.cell.trial.measure.watch, reduction_factor=halving
        )

    def _sampler(self) -> optuna.samplers.BaseSampler:
        """Seeded by how many trials there were, so that a study taken up again proposes what it would have anyway."""
        return optuna.samplers.TPESampler(
            seed=derive(self._seed, self.name, self._started) % 2**32,
            n_startup_trials=max(3, min(10, self.budget // 3)),
        )

    def _adopted(self) -> list[optuna.trial.Trial]:
        """Trials that an earlier run left unfinished, to be gone on with; those without a full proposal are closed."""
        adopted = []
        for frozen in self._optuna.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if set(frozen.params) == set(self._domains):
                adopted.append(optuna.trial.Trial(self._optuna, frozen._trial_id))
                self._reported[frozen.number] = set(frozen.intermediate_values)
            else:
                self._optuna.tell(frozen.number, state=TrialState.FAIL)
        return adopted

    def _finished(self) -> list[FrozenTrial]:
        trials = self._optuna.get_trials(deepcopy=False, states=_DONE)
        return [t for t in trials if set(t.params) == set(self._domains)]

    def remaining(self) -> int:
        return len(self._unfinished) + max(0, self.budget - self._started)

    @property
    def started(self) -> int:
        return self._started - len(self._unfinished)

    def finished(self) -> bool:
        """Whether every trial of the budget came to an end."""
        return not self.remaining() and not self._open

    def next(self) -> Job | None:
        if self._unfinished:
            proposal = self._unfinished.pop(0)
        elif self._started < self.budget:
            self._optuna.sampler = self._sampler()
            proposal = self._optuna.ask(self._domains)
            self._started += 1
        else:
            return None
        trial = self.cell.proposed(proposal.params)
        proposal.set_user_attr("key", trial.key)
        self._open[proposal.number] = proposal
        return Job(self.name, "search", proposal.number, trial)

    def heard(self, job: Job, row: Row) -> bool:
        """Report the goal to Optuna where this epoch was validated; whether halving stops the trial there."""
        goal = self.goals[0].replace("val/", "curve/")
        proposal = self._open[job.number]
        if len(self.goals) > 1 or goal not in row or row["epoch"] == job.trial.epochs:
            return False
        if row["epoch"] in self._reported.get(job.number, ()):  # replayed after an interruption: what was said stands
            return proposal.user_attrs.get("stopped") == row["epoch"]
        proposal.report(row[goal], row["epoch"])
        stop = proposal.should_prune()
        if stop:
            proposal.set_user_attr("stopped", row["epoch"])
        return stop

    def ended(self, job: Job, outcome: Outcome) -> None:
        proposal = self._open.pop(job.number)
        if outcome.state == "pruned":
            self._optuna.tell(proposal, state=TrialState.PRUNED)
        elif outcome.state == "failed":
            proposal.set_user_attr("reason", outcome.reason)
            self._optuna.tell(proposal, state=TrialState.FAIL)
        else:
            means = {s.name: s.mean for s in outcome.result.scores}
            for name in (*self.goals, *self.floor):
                if name not in means:
                    raise Mistake(f"no score {name!r} was measured; there are: {', '.join(sorted(means))}")
            missing = [goal for goal in self.goals if not math.isfinite(means[goal])]
            if missing:  # no image was classified correctly, so none could be attacked
                proposal.set_user_attr("reason", f"no image counts for {missing[0]}")
                self._optuna.tell(proposal, state=TrialState.FAIL)
                return
            for name, least in self.floor.items():
                proposal.set_constraint(name, least - means[name])
            self._optuna.tell(proposal, [means[goal] for goal in self.goals])

    def winners(self) -> list[Trial]:
        """The best finished trial above the floor; with several goals, all that no other such trial dominates."""
        finished = [t for t in self._finished() if t.state == TrialState.COMPLETE]
        above = [t for t in finished if all(short <= 0 for short in t.constraints.values())]
        front = [t for t in above if not any(_dominates(other.values, t.values) for other in above)]
        if len(self.goals) == 1:
            front = front[:1]  # of equals the earliest
        return list({self.cell.proposed(t.params).key: self.cell.proposed(t.params) for t in front}.values())


def _dominates(a: list[float], b: list[float]) -> bool:
    return all(x >= y for x, y in zip(a, b, strict=True)) and any(x > y for x, y in zip(a, b, strict=True))


class Sweep:
    """All studies as one source of jobs: the search in every cell, then the seeds of its winners.

    Whichever study has started fewest trials goes next, so every cell's published trial is among the first. Once a
    cell's search is at its end, its winners are fixed (`crown` hears their keys) and repeated, except where
    `is_complete` says that an earlier run did so already.
    """

    def __init__(
        self,
        studies: list[Study],
        seeds: int,
        crown: Callable[[str, list[str]], None],
        is_complete: Callable[[Job], bool],
    ):
        self._studies = {study.name: study for study in studies}
        self._searching = list(studies)
        self._seeds, self._crown, self._is_complete = seeds, crown, is_complete
        self._repetitions: list[Job] = []
        self._settle()

    def remaining(self) -> int:
        searches = sum(study.remaining() for study in self._searching)
        return searches + len(self._searching) * self._seeds + len(self._repetitions)

    def finished(self) -> bool:
        return not self._searching and not self._repetitions

    def next(self) -> Job | None:
        waiting = [study for study in self._searching if study.remaining()]
        if waiting:
            return min(waiting, key=lambda study: study.started).next()
        return self._repetitions.pop(0) if self._repetitions else None

    def heard(self, job: Job, row: Row) -> bool:
        return job.role == "search" and self._studies[job.study].heard(job, row)

    def ended(self, job: Job, outcome: Outcome) -> None:
        if job.role == "search":
            self._studies[job.study].ended(job, outcome)
            self._settle()

    def _settle(self) -> None:
        """Fix the winners of the studies whose search is at its end."""
        for study in [study for study in self._searching if study.finished()]:
            self._searching.remove(study)
            self._crown(study.name, [winner.key for winner in study.winners()])
            self._repetitions += [job for job in repetitions(study, self._seeds) if not self._is_complete(job)]


def repetitions(study: Study, seeds: int) -> list[Job]:
    """The jobs that repeat a study's winners with the next seeds; the search's own run is not among them."""
    return [
        Job(study.name, "seed", number, dataclasses.replace(winner, seed=winner.seed + number), winner.key)
        for winner in study.winners()
        for number in range(1, seeds + 1)
    ]
