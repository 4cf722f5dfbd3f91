"""Job queue of a sweep, a graph: teachers and their maps, search trials of every cell, seeds of its winners."""

import dataclasses
from collections.abc import Callable, Mapping

from harness.sweep.job_types import Job, Outcome
from harness.sweep.search_limits import SearchLimits
from harness.sweep.study import Study
from harness.training.epoch_metrics import EpochMetrics

UNLIMITED = SearchLimits()


def no_needs(job: Job) -> list[Job]:
    """The needs of jobs that need nothing."""
    return []


def no_discard(key: str) -> None:
    """Keep the weights of every trial."""


class SweepJobs:
    """`JobSource` over all studies: search trials of every cell, then seed repetitions of its winners.

    The study with the fewest started trials is next, so the published settings of all cells run first. When a cell's
    search ends, its winners are selected, `on_winners(study, keys, duplicates)` is called, and the repetitions
    are queued, except those that are complete already by `is_complete`.

    needs(job): the jobs that must be complete before it; those that are, are left out. A job waits here, not in a slot,
    for these, and for a job with the same settings that is running. Where something that it needs fails, it fails.

    limits: what may end the search before all trials.

    discard(key): called for a search trial whose weights nothing needs: it has ended, wins no study so far, and equals
    no unfinished job.
    """

    def __init__(
        self,
        studies: list[Study],
        seeds: int,
        on_winners: Callable[[str, list[str], int], None],
        is_complete: Callable[[Job], bool],
        needs: Callable[[Job], list[Job]] = no_needs,
        discard: Callable[[str], None] = no_discard,
        limits: SearchLimits = UNLIMITED,
    ):
        self._studies = {study.name: study for study in studies}
        self._searching = list(studies)
        self._seeds, self._on_winners, self._is_complete, self._needs = seeds, on_winners, is_complete, needs
        self._discard, self._limits = discard, limits
        self.reached = ""  # the limit that ended the search
        self.seeds_left = 0  # seed runs that a limit left out
        self._repetitions: list[Job] = []
        self._ready: dict[str, Job] = {}  # by id, in order
        self._running: dict[str, Job] = {}
        self._blocked: dict[str, tuple[Job, set[str]]] = {}  # with the ids of what it waits for
        self._ended: list[tuple[Job, Outcome]] = []  # without being run
        self._failed: dict[str, Outcome] = {}  # by id of a shared job
        self._made: set[str] = set()  # ids of the shared jobs that have ended
        self._again: set[str] = set()  # ids of the shared jobs and repetitions that the machine failed once
        self._needed: dict[tuple, list[Job]] = {}  # by jobs to come that need the same, as they were first asked for
        self._select_winners()

    def remaining(self) -> int:
        searches = sum(study.remaining() for study in self._searching)
        admitted = sum(not job.is_shared for job in self._waiting())
        return searches + admitted + len(self._searching) * self._seeds + len(self._repetitions)

    def _waiting(self) -> list[Job]:
        """The jobs that were admitted and do not run yet."""
        return [*self._ready.values(), *(job for job, _ in self._blocked.values())]

    def to_come(self) -> dict[str, tuple[Job, set[str]]]:
        """Jobs that have not begun, by id and as they will start, as far as known, with the ids of what each waits for.

        In the place of a proposal or a winner is its cell's published trial, under an id that no job has.
        """
        return self._foreseen({study.name: study.remaining() for study in self._searching})

    def _foreseen(self, trials: Mapping[str, int]) -> dict[str, tuple[Job, set[str]]]:
        """The jobs to come if so many trials of each study do."""
        found = {job.id: (job, set(waits)) for job, waits in self._blocked.values()}
        found |= {job.id: (job, set()) for job in self._ready.values()}
        searches = [(n, study) for study in self._searching for n in range(trials[study.name])]
        for n, study in sorted(searches, key=lambda each: each[0] + each[1].n_started):
            self._foresee(Job(study.name, "search", study.n_started + n, study.cell.trial, "proposal"), set(), found)
        for job in self._repetitions:
            self._foresee(job, set(), found)
        for study in self._searching:
            going = [job for job, _ in found.values()] + list(self._running.values())
            waits = {job.id for job in going if job.study == study.name and job.role == "search"}
            for number in range(1, self._seeds + 1):
                trial = dataclasses.replace(study.cell.trial, seed=study.cell.trial.seed + number)
                self._foresee(Job(study.name, "seed", number, trial, "winner"), waits, found)
        return found

    def _foresee(self, job: Job, waits: set[str], found: dict[str, tuple[Job, set[str]]]) -> None:
        """Enter a job, after the shared ones that it needs; these are asked for once, since that looks at files."""
        alike = (job.id,) if job.is_shared else (job.study, job.winner, job.trial.seed)
        if alike not in self._needed:
            self._needed[alike] = self._needs(job)
        needed = [one for one in self._needed[alike] if one.id not in self._made]
        for one in needed:
            if one.id not in found and one.id not in self._running:
                self._foresee(one, set(), found)
        found[job.id] = job, waits | {one.id for one in needed}

    def finished(self) -> bool:
        waiting = self._searching or self._repetitions or self._ready or self._blocked or self._ended
        return not (waiting or self._running)  # what runs may have to run again

    def next(self) -> Job | None:
        while not self._ready and (job := self._propose()):
            self._admit(job)
        if not self._ready:
            return None
        job = self._ready.pop(next(iter(self._ready)))
        self._running[job.id] = job
        return job

    def _propose(self) -> Job | None:
        """The next job of the studies, or else of the repetitions.

        A study is not asked while a trial of it waits for its teacher or maps: a later proposal knows more.
        """
        held = {job.study for job, waits in self._blocked.values() if any(self._is_shared(i) for i in waits)}
        asked = [study for study in self._searching if study.remaining() and study.name not in held]
        if asked:
            study = min(asked, key=lambda study: study.n_started)
            if not self._end_at_limit(study):
                return study.next()
        return self._next_repetition()

    def _end_at_limit(self, study: Study) -> bool:
        """End the search in all cells if a limit says so, before another trial of the study. Whether it has ended.

        The trial is one more than the others may have: they will have as many.
        """

        def next_trials() -> dict[str, tuple[Job, set[str]]]:
            wanted = {other.name: study.n_started + 1 - other.n_started for other in self._searching}
            return self._foreseen({s.name: max(0, min(wanted[s.name], s.remaining())) for s in self._searching})

        self.reached = self._limits.reached(self._searching, next_trials)
        if self.reached:
            for other in self._searching:
                other.close()
            self._select_winners()
        return bool(self.reached)

    def _next_repetition(self) -> Job | None:
        """The next seed run, of all cells the first ones first; none if it cannot end within the budget."""
        if not self._repetitions:
            return None
        job = min(self._repetitions, key=lambda job: job.number) if self._limits.time else self._repetitions[0]
        if not self._limits.allows(job):
            self.seeds_left += len(self._repetitions)
            self._repetitions = []
            return None
        self._repetitions.remove(job)
        return job

    def _is_shared(self, job_id: str) -> bool:
        job = self._unfinished(job_id)
        return job is not None and job.is_shared

    def _unfinished(self, job_id: str) -> Job | None:
        blocked = self._blocked.get(job_id)
        return self._ready.get(job_id) or self._running.get(job_id) or (blocked[0] if blocked else None)

    def _admit(self, job: Job) -> None:
        """Let a job run, or wait, or end: what it needs has failed, or an equal proposal has ended."""
        if job.role == "search" and (duplicate := self._studies[job.study].duplicate(job)):
            self._ended.append((job, duplicate))
            return
        waits = set()
        for needed in self._needs(job):
            if needed.id in self._made and needed.id not in self._failed:
                continue  # even if its files are not to be seen from here
            if needed.id not in self._failed and not self._unfinished(needed.id):
                self._admit(needed)
            if failed := self._failed.get(needed.id):
                self._end(
                    job, Outcome("failed", 0, reason=f"its {needed.role} failed: {failed.reason}", cause=failed.cause)
                )
                return
            waits.add(needed.id)
        if not job.is_shared:
            # Not those that wait themselves: two that were released together would wait for each other.
            going = [*self._ready.values(), *self._running.values()]
            waits |= {other.id for other in going if not other.is_shared and other.key == job.key}
        if waits:
            self._blocked[job.id] = job, waits
        else:
            self._ready[job.id] = job

    def _end(self, job: Job, outcome: Outcome) -> None:
        """End a job that cannot run."""
        if job.is_shared:
            self._failed[job.id] = outcome
        self._ended.append((job, outcome))

    def take_ended(self) -> list[tuple[Job, Outcome]]:
        ended, self._ended = self._ended, []
        return ended

    def on_epoch(self, job: Job, row: EpochMetrics) -> bool:
        return job.role == "search" and self._studies[job.study].on_epoch(job, row)

    def on_end(self, job: Job, outcome: Outcome) -> None:
        self._running.pop(job.id, None)
        again = outcome.state == "failed" and outcome.cause == "machine" and job.id not in self._again
        if again and job.role != "search":  # once, as the study does with search trials
            self._again.add(job.id)
            if job.role == "seed":
                self._repetitions.append(job)  # what is shared is admitted again by what waits for it
        elif job.is_shared:
            self._made.add(job.id)
            if outcome.state == "failed":
                self._failed[job.id] = outcome
        if job.role == "search":
            self._end_search(job, outcome)
        self._release(job.id)
        self._select_winners()

    def _end_search(self, job: Job, outcome: Outcome) -> None:
        """Report a search trial's outcome to its study, and discard the weights that are not needed any more."""
        study = self._studies[job.study]
        before = study.winning_keys()
        study.on_end(job, outcome)
        if outcome.state == "failed":  # it may go on from its checkpoint
            return
        unfinished = [*self._running.values(), *self._waiting()]
        needed = {other.key for other in unfinished}.union(*(study.winning_keys() for study in self._studies.values()))
        for key in sorted((before | {job.key}) - needed):
            self._discard(key)

    def _release(self, ended: str) -> None:
        """Admit the jobs that waited for nothing else."""
        for job, waits in list(self._blocked.values()):
            waits.discard(ended)
            if not waits:
                del self._blocked[job.id]
                self._admit(job)

    def _select_winners(self) -> None:
        """Select the winners of studies whose search has ended, and queue their repetitions."""
        for study in [study for study in self._searching if study.finished()]:
            self._searching.remove(study)
            self._on_winners(study.name, [winner.key for winner in study.winners()], study.n_duplicates)
            self._repetitions += [job for job in seed_jobs(study, self._seeds) if not self._is_complete(job)]


def seed_jobs(study: Study, seeds: int) -> list[Job]:
    """Jobs that repeat a study's winners with new seeds; the search trial itself is not one of them."""
    return [
        Job(study.name, "seed", number, dataclasses.replace(winner, seed=winner.seed + number), winner.key)
        for winner in study.winners()
        for number in range(1, seeds + 1)
    ]
