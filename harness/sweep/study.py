"""Optuna study per cell with asynchronous successive halving: proposes trials, prunes them, selects winners.

All state is in the Optuna journal, so a resumed study has every trial and rung. A trial stopped at a rung is PRUNED,
with the value and epoch of that rung; only trials of full length are COMPLETE and can win. A trial that the machine
failed is FAIL with the user attribute `cause` and not spent from the budget: a new trial with its settings, whose
attribute `repeats` is its number, takes its place, with its rungs.
"""

import math
from collections.abc import Mapping

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from harness.config.search_domains import distributions, from_params, to_params
from harness.config.space import Cell, Space
from harness.config.trial import Trial
from harness.errors import UserError, required
from harness.randomness import derive_seed
from harness.sweep import halving, repeated_trials
from harness.sweep.job_types import Job, Outcome
from harness.sweep.optuna_journal import going_on
from harness.sweep.repeated_trials import REPEATS
from harness.sweep.winners import select_winners
from harness.training.epoch_metrics import EpochMetrics
from methods import Setting

DUPLICATE_OF = "duplicate_of"  # user attribute of a proposal that was not run: the number of the equal one
KNOWN_FROM = "known_from"  # user attribute of the outcome of another study's trial, which only the sampler sees
CAUSE = "cause"  # user attribute of a failed trial
_DONE = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


class Study:
    """The Optuna study of one cell. budget: number of trials."""

    def __init__(self, name: str, space: Space, cell: Cell, budget: int, storage: BaseStorage, seed: int):
        self.name, self.cell, self.budget, self.goals, self.floor = name, cell, budget, space.goals, space.floor
        self._distributions = distributions(cell.search)
        self._optuna = optuna.create_study(
            study_name=name,
            storage=storage,
            load_if_exists=True,
            directions=["maximize"] * len(self.goals),
            pruner=halving.pruner(space.halving, len(self.goals), cell.trial.measure.watch),
        )
        self._running: dict[int, optuna.trial.Trial] = {}
        self._reported: dict[int, set[int]] = {}
        self._unfinished = self._interrupted()
        published = to_params(cell.search, cell.published())
        first = (t for t in self._optuna.get_trials(deepcopy=False) if not {REPEATS, KNOWN_FROM} & t.user_attrs.keys())
        if not any(t.state == TrialState.WAITING or t.params == published for t in first):
            self._optuna.enqueue_trial(published)
        self._repeated: set[int] = set()  # numbers of the failed trials that this run of the command repeats
        for failed in self._failed():
            if _by_machine(failed):
                self._repeat(failed)
        self._started = self._spent()
        self._seed, self._valued = seed, False
        done = [t for t in self._finished() if t.state != TrialState.FAIL]
        self._by_key = {
            t.user_attrs.get("key", ""): t.number for t in reversed(done) if DUPLICATE_OF not in t.user_attrs
        }
        self.n_duplicates = sum(DUPLICATE_OF in t.user_attrs for t in done)
        self._winning = select_winners(self._finished())
        ended = self._finished()
        self._ended = [t.number for t in ended if t.state != TrialState.FAIL or not _by_machine(t)]

    def _sampler(self) -> optuna.samplers.BaseSampler:
        """TPE, seeded by the number of started trials, so that a resumed study makes the same proposals."""
        self._valued = self._valued or any(t.state != TrialState.FAIL for t in self._finished())
        return _Sampler(
            self._distributions if self._valued and len(self.goals) == 1 else {},
            seed=derive_seed(self._seed, self.name, self._started) % 2**32,
            n_startup_trials=max(3, min(10, self.budget // 3)),
        )

    def _interrupted(self) -> list[optuna.trial.Trial]:
        """Trials that an earlier run left RUNNING, to be resumed; incomplete proposals are marked FAIL."""
        trials = []
        for frozen in self._optuna.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if self._proposed(frozen):
                trials.append(going_on(self._optuna, frozen))
                self._reported[frozen.number] = set(frozen.intermediate_values)
            else:
                self._optuna.tell(frozen.number, state=TrialState.FAIL)
        return trials

    def _finished(self) -> list[FrozenTrial]:
        trials = self._optuna.get_trials(deepcopy=False, states=_DONE)
        return [t for t in trials if self._proposed(t)]

    def _stored(self, number: int) -> FrozenTrial:
        return self._optuna.get_trials(deepcopy=False)[number]

    def _proposed(self, trial: FrozenTrial) -> bool:
        """Whether it is a trial of this study all of whose parameters were stored, before the command was killed."""
        return set(trial.params) == set(self._distributions) and KNOWN_FROM not in trial.user_attrs

    def _failed(self) -> list[FrozenTrial]:
        """Failed trials in whose place there is no other."""
        trials = self._optuna.get_trials(deepcopy=False)
        unproposed = {t.number for t in trials if t.state == TrialState.FAIL and not self._proposed(t)}
        replaced = {t.user_attrs.get(REPEATS) for t in trials if t.number not in unproposed}
        return [t for t in self._finished() if t.state == TrialState.FAIL and t.number not in replaced]

    def _spent(self) -> int:
        """Number of trials of the budget that have ended or are to be resumed."""
        failed = [t for t in self._failed() if not _by_machine(t)]
        return sum(t.state != TrialState.FAIL for t in self._finished()) + len(failed) + len(self._unfinished)

    def _repeat(self, failed: FrozenTrial) -> None:
        repeated_trials.enqueue(self._optuna, failed)
        self._repeated.add(failed.number)

    def retry_failed(self) -> int:
        """Run failed trials again, each in its place in the budget. Returns the number of those that wait for it."""
        for failed in self._failed():
            self._repeat(failed)
        self._started = self._spent()
        waiting = self._optuna.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        return sum(REPEATS in t.user_attrs for t in waiting)

    def _trial(self, params: Mapping[str, Setting]) -> Trial:
        return self.cell.proposed(from_params(self.cell.search, params))

    def know(self, source: str, values: Mapping[str, Setting], scores: Mapping[str, float]) -> None:
        """Tell the sampler the outcome of another study's trial, once. It is none of this study's trials."""
        trials = self._optuna.get_trials(deepcopy=False)
        self._valued = True
        if all(trial.user_attrs.get(KNOWN_FROM) != source for trial in trials):
            self._optuna.add_trial(
                optuna.trial.create_trial(
                    params=to_params(self.cell.search, values),
                    distributions=self._distributions,
                    values=[scores[goal] for goal in self.goals],
                    constraints={name: least - scores[name] for name, least in self.floor.items()},
                    user_attrs={KNOWN_FROM: source},
                )
            )

    def remaining(self) -> int:
        """Number of trials to resume or to propose."""
        return len(self._unfinished) + max(0, self.budget - self._started)

    @property
    def n_started(self) -> int:
        """Number of trials that are finished or running."""
        return self._started - len(self._unfinished)

    def finished(self) -> bool:
        """Whether all trials of the budget have ended."""
        return not self.remaining() and not self._running

    def stalled(self) -> int:
        """Number of ended trials that were proposed after the last of the winners so far; all if there is none."""
        last = max((trial.number for trial in self._winning), default=-1)
        return sum(number > last for number in self._ended)

    def close(self) -> None:
        """Begin no more trials in this run of the command; interrupted ones are left to the next run."""
        self.budget = self._started = self.n_started
        self._unfinished = []

    def next(self) -> Job | None:
        """The next trial to run, interrupted ones first; None if the budget is used up."""
        if self._unfinished:
            proposal = self._unfinished.pop(0)
        elif self._started < self.budget:
            self._optuna.sampler = self._sampler()
            proposal = self._optuna.ask(self._distributions)
            self._started += 1
            if REPEATS in proposal.user_attrs:
                self._reported[proposal.number] = set(self._stored(proposal.number).intermediate_values)
        else:
            return None
        trial = self._trial(proposal.params)
        proposal.set_user_attr("key", trial.key)
        self._running[proposal.number] = proposal
        return Job(self.name, "search", proposal.number, trial)

    def duplicate(self, job: Job) -> Outcome | None:
        """The outcome of a proposal with the settings of one that was complete or pruned; None for any other."""
        number = self._by_key.get(job.trial.key)
        return None if number is None else Outcome("duplicate", 0, reason=f"trial {number} has the same settings")

    def on_epoch(self, job: Job, row: EpochMetrics) -> bool:
        """Report a validated epoch's goal to Optuna; whether to prune the trial."""
        if len(self.goals) > 1 or row["epoch"] == job.trial.epochs:
            return False
        return halving.stops(self._running[job.number], self.goals[0], row, self._reported.get(job.number, set()))

    def on_end(self, job: Job, outcome: Outcome) -> None:
        """Report the outcome to Optuna. Raises `UserError` if a goal or floor names no measured score."""
        proposal = self._running.pop(job.number)
        if outcome.state != "failed" or outcome.cause != "machine":
            self._ended.append(job.number)
        if outcome.state == "duplicate":
            self._end_as(proposal, self._stored(self._by_key[job.trial.key]))
            return
        if outcome.state == "pruned":
            self._by_key.setdefault(job.trial.key, job.number)
            self._optuna.tell(proposal, state=TrialState.PRUNED)
        elif outcome.state == "failed":
            proposal.set_user_attr("reason", outcome.reason)
            if outcome.cause == "machine":
                proposal.set_user_attr(CAUSE, outcome.cause)
            failed = self._optuna.tell(proposal, state=TrialState.FAIL)
            if outcome.cause == "machine" and proposal.user_attrs.get(REPEATS) not in self._repeated:
                self._repeat(failed)  # once; after that, in another run of the command
                self._started -= 1
        else:
            means = {s.name: s.mean for s in required(outcome.result, "result").scores}
            for name in (*self.goals, *self.floor):
                if name not in means:
                    raise UserError(f"no score {name!r} was measured; there are: {', '.join(sorted(means))}")
            missing = [goal for goal in self.goals if not math.isfinite(means[goal])]
            if missing:  # no image was classified correctly, so none was attacked
                proposal.set_user_attr("reason", f"{missing[0]} has no value: no image was classified correctly")
                self._optuna.tell(proposal, state=TrialState.FAIL)
                return
            for name, least in self.floor.items():
                proposal.set_constraint(name, least - means[name])
            self._by_key.setdefault(job.trial.key, job.number)
            self._count(self._optuna.tell(proposal, [means[goal] for goal in self.goals]))

    def _end_as(self, proposal: optuna.trial.Trial, of: FrozenTrial) -> None:
        """End a proposal as an equal one ended, with its values; in the rungs only that one counts."""
        for epoch, value in of.intermediate_values.items():
            proposal.report(value, epoch)
        for name, deficit in of.constraints.items():
            proposal.set_constraint(name, deficit)
        proposal.set_user_attr(DUPLICATE_OF, of.number)
        self._count(self._optuna.tell(proposal, of.values if of.state == TrialState.COMPLETE else None, state=of.state))
        self.n_duplicates += 1

    def _count(self, ended: FrozenTrial) -> None:
        """Select the winners among those of before and a trial that ended: who has lost once, never wins again."""
        self._winning = select_winners(sorted([*self._winning, ended], key=lambda trial: trial.number))

    def winners(self) -> list[Trial]:
        """The cell's winners so far, without duplicates; see `harness.sweep.winners`."""
        proposed = [self._trial(t.params) for t in self._winning]
        return list({trial.key: trial for trial in proposed}.values())

    def winning_keys(self) -> set[str]:
        """The keys of the winners so far."""
        return {trial.user_attrs.get("key", "") for trial in self._winning}


class _Sampler(optuna.samplers.TPESampler):
    """TPE that is told the search space, as Optuna infers it from all trials: that is a quarter of a proposal's cost.

    space: that of the trials so far; empty if there is none with a value, or several goals, whose settings are then
    proposed independently.
    """

    def __init__(self, space: Mapping[str, BaseDistribution], *, seed: int, n_startup_trials: int):
        super().__init__(seed=seed, n_startup_trials=n_startup_trials)
        self._space = {name: space[name] for name in sorted(space) if not space[name].single()}

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return dict(self._space)


def _by_machine(failed: FrozenTrial) -> bool:
    return failed.user_attrs.get(CAUSE) == "machine"
