"""Record a sweep for the replays of `tests/sweep/test_time_left.py`: run it as `harness.tune`, with a file first.

    python -m tests.sweep_recorder FILE --space smoke --out FOLDER

The file has a line of the plan and one of each event: seconds, what, number of the job; of a start also its role and
cell, of an epoch its number, of progress how many are done and of how many, of an end its state.
"""

import dataclasses
import json
import sys
import time

import methods
from harness import sweep_driver, tune
from harness.sweep.estimate import shapes
from harness.sweep_report import print_report


class Recorder:
    def __init__(self, planned, file):
        self.file, self.began, self.numbers, self.names = file, time.monotonic(), {}, {}
        self.names = {study: cell.name for study, cell in planned.studies.items()}

    def write(self, event, job, *more):
        number = self.numbers.setdefault(job.id, len(self.numbers))
        seconds = round(time.monotonic() - self.began, 1)
        print(json.dumps([seconds, event, number, *more]), file=self.file, flush=True)

    def on_start(self, job):
        cell = self.names.get(job.study) or methods.name(job.trial.method)
        if job.maps:
            cell = f"{job.maps.saliency} of {cell}"
        self.write("start", job, job.role, cell, job.trial.seed)

    def on_epoch(self, job, row):
        self.write("epoch", job, int(row["epoch"]))

    def on_progress(self, job, done, total):
        self.write("progress", job, done, total)

    def on_worker_lost(self, job, why):
        self.write("lost", job)

    def on_end(self, job, outcome):
        cell = [self.names[job.study], job.role] if outcome.state == "duplicate" else []
        self.write("end", job, outcome.state, *cell)


def plan_line(planned, workspace):
    known, cells = shapes(planned, workspace), {}
    for study, cell in planned.studies.items():
        of, maps = {"epochs": cell.trial.epochs, **dataclasses.asdict(known[study])}, cell.trial.maps
        if methods.reads_maps(cell.trial.method):
            of |= {"saliency": maps.saliency, "teacher": maps.teacher}
        cells[cell.name] = of
    maps = {
        kind.replace("maps of teacher", "of"): dataclasses.asdict(known[kind])
        for kind in known.keys() - planned.studies
    }
    return {"trials": planned.trials, "seeds": planned.seeds, "cells": cells, "maps": maps}


def main():
    file, *words = sys.argv[1:]
    planned, workspace = sweep_driver.prepared(tune.request(tune.arguments(words)))
    head = plan_line(planned, workspace)
    with open(file, "w") as opened:
        print(json.dumps(head), file=opened, flush=True)
        sweep_driver.run(planned, workspace, callbacks=[Recorder(planned, opened)], on_report=print_report)


if __name__ == "__main__":
    sys.exit(main())
