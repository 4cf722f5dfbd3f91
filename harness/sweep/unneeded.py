"""Search trials whose weights nothing needs, as the Optuna journal of an output folder has it.

Of those only the scores count: a winner is repeated from its settings, and an interrupted or failed trial goes on from
its checkpoint.
"""

from collections.abc import Callable, Collection, Iterator, Mapping

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from harness.storage.driver_files import JOURNAL
from harness.storage.workspace import Workspace
from harness.sweep import job_queue, optuna_journal
from harness.sweep.winners import select_winners
from harness.trials import discarded_weights

_ENDED = (TrialState.COMPLETE, TrialState.PRUNED)


def unneeded(storage: BaseStorage, studies: Collection[str] | None = None) -> set[str]:
    """Keys of the search trials that ended and win no study, and that no unfinished or failed trial equals.

    studies: names of those whose trials are asked for; what any other study proposed is then needed. Default: all.
    """
    ended: set[str] = set()
    needed: set[str] = set()
    for name, trials in _trials(storage):
        keyed = [(trial.user_attrs["key"], trial.state) for trial in trials]
        done = {key for key, state in keyed if state in _ENDED}
        if studies is not None and name not in studies:
            needed |= {key for key, _ in keyed}
        else:
            ended |= done
            needed |= {key for key, _ in keyed} - done
        needed |= {trial.user_attrs["key"] for trial in select_winners(trials)}
    return ended - needed


def proposed_elsewhere(storage: BaseStorage, studies: Collection[str]) -> set[str]:
    """Keys of the search trials of all studies but these."""
    return {t.user_attrs["key"] for name, trials in _trials(storage) if name not in studies for t in trials}


def discarder(workspace: Workspace, studies: Collection[str]) -> Callable[[str], None]:
    """A function that discards the weights of a trial, by its key, unless a study beside these proposed it too.

    At a URI it does nothing, and all wait for `discard`: no disk gets full there, and requests would delay others.
    """
    if workspace.remote:
        return job_queue.no_discard
    elsewhere = proposed_elsewhere(optuna_journal.open_journal(workspace.out / JOURNAL), studies)

    def discard_one(key: str) -> None:
        if key not in elsewhere:
            discarded_weights.discard(key, workspace)

    return discard_one


def discard(
    workspace: Workspace, sizes: Mapping[str, int], studies: Collection[str] | None = None, *, dry_run: bool = False
) -> dict[str, int]:
    """Discard the weights of all `unneeded` trials of these studies. Returns their files and bytes.

    sizes: of all files, by `Workspace.sizes`. dry_run: remove nothing.
    """
    keys = unneeded(optuna_journal.open_journal(workspace.out / JOURNAL), studies)
    files = discarded_weights.discarded(keys, sizes)
    if not dry_run:
        for path in files:
            workspace.remove(path)
    return files


def _trials(storage: BaseStorage) -> Iterator[tuple[str, list[FrozenTrial]]]:
    """Name and trials of every study; a trial without a key was never run."""
    for name in optuna.get_all_study_names(storage):
        trials = optuna.load_study(study_name=name, storage=storage).get_trials(deepcopy=False)
        yield name, [trial for trial in trials if "key" in trial.user_attrs]
