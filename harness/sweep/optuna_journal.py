"""Optuna journal storage on disk, shared by all studies, and how a trial in it goes on after an interruption."""

from pathlib import Path

import optuna
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial

from harness.errors import UserError
from harness.storage.files import drop_partial_line


def open_journal(path: Path) -> BaseStorage:
    """Open the journal; `optuna-dashboard PATH` displays it. Raises `UserError` if it is damaged."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    path.parent.mkdir(parents=True, exist_ok=True)
    drop_partial_line(path)
    try:
        return JournalStorage(JournalFileBackend(str(path)))
    except OSError as error:
        raise UserError(f"cannot open the journal {str(path)!r}: {error.strerror}") from None
    except Exception as error:  # a garbled line can raise anything during replay
        raise UserError(
            f"{str(path)!r} is no Optuna journal ({type(error).__name__}); move it away to start anew"
        ) from None


def going_on(study: optuna.Study, trial: FrozenTrial) -> Trial:
    """The trial of an interrupted run, to be reported to as by that run. Optuna has no public way to it."""
    return Trial(study, trial._trial_id)
