"""What runs a trial in the tests of faults: the real thing, to which something happens once.

The environment says what, as JSON in MISFORTUNES: a list of [what, method, seed, learning rate or null, epoch].
"""

import json
import os
import resource
import signal
import time
from pathlib import Path

import numpy as np

from harness import trial as trials
from harness.place import Place

LATER = 10_000  # seconds: for ever, as a test sees it


def run(trial, place: Place, *, report=trials.ignore, test=False):
    due = [m for m in json.loads(os.environ["MISFORTUNES"]) if _is_its(m, trial)]

    def heard(row):
        report(row)
        for what, *_, epoch in due:
            if row["epoch"] == epoch:
                _happens(what, place.out / "happened" / f"{what}-{trial.key}")

    return trials.run(trial, place, report=heard, test=test)


def _is_its(misfortune, trial) -> bool:
    _, method, seed, lr, _ = misfortune
    named = trial.flat()["method"] == method and trial.seed == seed
    return named and (lr is None or abs(trial.optim.lr - lr) < 1e-12)


def _happens(what: str, mark: Path) -> None:
    mark.parent.mkdir(parents=True, exist_ok=True)
    again = mark.exists()
    mark.touch()
    if what == "raise":
        raise ZeroDivisionError("a deliberate one")
    if what == "memory":
        np.zeros(2**50, np.uint8)
    if what == "hang":
        time.sleep(LATER)
    if what == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if again:  # the others happen once
        return
    if what == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "full":  # no file may grow beyond a kilobyte, until the worker ends
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))
