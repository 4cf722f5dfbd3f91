"""The progress line, in a terminal and in a log."""

import io

from harness.config.trial import build
from harness.evaluation.scores import Score
from harness.sweep import progress
from harness.sweep.forecast import Shape
from harness.sweep.job_types import Job, Outcome
from harness.sweep.progress import SweepProgress
from harness.sweep.time_left import TimeLeft
from harness.trials.result import Result


class Terminal(io.StringIO):
    def isatty(self):
        return True


def play(stream, monkeypatch):
    monkeypatch.setattr(progress, "LOG_SECONDS", 0.0)
    left = [2]
    shown = SweepProgress(lambda: left[0], dict, TimeLeft({}), "val/robust", {"s": "a cell"}, stream)
    trial = build({"epochs": 4})
    good, bad = (Job("s", "search", i, trial) for i in range(2))
    for job in (good, bad):
        left[0] -= 1
        shown.on_start(job)
    shown.on_epoch(good, {"epoch": 3})
    result = Result(trial, [Score("val/robust", 0.625, 0.1, 8)], [], {}, {})
    shown.on_end(good, Outcome("complete", 4, result))
    shown.on_end(bad, Outcome("failed", 1, reason="Diverged: the loss became nan"))
    shown.close()
    return stream.getvalue()


def test_a_log_gets_whole_lines(monkeypatch):
    text = play(io.StringIO(), monkeypatch)
    assert "\r" not in text and text.endswith("\n")
    assert "2 trials to go" in text and "now a cell 3/4" in text
    assert "a cell, search 1 failed: Diverged: the loss became nan" in text
    assert "2/2 trials · 1 failed · best val/robust 62.5 % (a cell)" in text.splitlines()[-1]


def test_a_terminal_gets_one_line_redrawn(monkeypatch):
    text = play(Terminal(), monkeypatch)
    assert text.count("\r") >= 3 and text.endswith("\n")
    assert all(len(line) <= 140 for line in text.replace("\r", "\n").splitlines())


def test_the_time_left_counts_what_is_under_way_and_to_come(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(progress, "LOG_SECONDS", 0.0)
    stream, trial = io.StringIO(), build({"epochs": 4, "maps.saliency": "gradient"})
    teacher, maps, seed = (
        Job("", "teacher", 0, trial),
        Job("", "maps", 0, trial, maps=trial.maps),
        Job("s", "seed", 1, trial),
    )
    to_come = {maps.id: (maps, {teacher.id}), seed.id: (seed, {maps.id})}
    shown = SweepProgress(lambda: 1, lambda: to_come, TimeLeft({"s": Shape(val=1, test=2)}), "val/robust", {}, stream)
    shown.on_start(teacher)
    for epoch in range(1, 4):
        now[0] += 10
        shown.on_epoch(teacher, {"epoch": epoch, "seconds": 9.0})
    now[0] += 3
    shown.on_progress(teacher, 1, 2)
    *_, before, after = stream.getvalue().splitlines()
    # An epoch of the teacher, the maps at an epoch's time, four epochs of the seed, and three units to measure.
    assert before.endswith("0:30, 1:30 left") and after.endswith("0:33, 1:27 left")
    assert "gradient maps of teacher" in shown._name(maps)


def test_clock():
    assert [progress._clock(s) for s in (5, 65, 3725)] == ["0:05", "1:05", "1:02:05"]
