"""A sweep goes on with other cells in its space, and with what other sweeps of its output have of its studies."""

import dataclasses
import shutil
import time

import pytest

from harness import cli, tune
from harness.config.search_domains import uniform
from harness.config.space import NamedSpace, Space
from harness.evaluation.scores import Score
from harness.sweep.job_types import Job, Outcome
from harness.sweep.plan import plan
from harness.tracking import sweep_logs
from harness.tracking.delivery import deliver_all
from harness.tracking.logged_runs import logged_runs
from harness.tracking.sweep_tags import study_tags, sweep_tags
from harness.tracking.tracker import Tracker
from harness.trials.result import Result
from reports import __main__
from reports.analyse.leaderboard import build_leaderboard
from reports.read import runs
from reports.write import terminal

CELLS = {"standard": {"method": "standard"}, "pgd": {"method": "pgd"}, "sat": {"method": "sat"}}


@pytest.fixture
def planned(monkeypatch):
    """A function from names of cells, and words of the command, to the plan of a space that has these cells."""

    def made(cells, *words):
        compare = {name: CELLS[name] for name in cells.split()}
        space = Space(base={"epochs": 3}, compare=compare, search={"optim.lr": uniform(0.01, 0.1)})
        monkeypatch.setattr(cli, "named_space", lambda name: NamedSpace(name, space))
        return plan(tune.request(tune.arguments(["--space", "smoke", *words])))

    return made


def test_a_sweep_is_a_space_a_data_set_settings_and_a_seed(planned):
    one = planned("standard pgd")
    more = planned("standard pgd sat", "--trials", "50", "--seeds", "9")
    assert one.sweep == more.sweep and one.former_sweep != more.former_sweep
    assert one.studies.items() <= more.studies.items()
    same = ("epochs=3", "epochs=03", "data.split=0")
    assert {planned("standard pgd", "--set", setting).sweep for setting in same} == {one.sweep}
    other = (("--set", "epochs=4"), ("--seed", "1"), ("--data", "shapes"), ("--set", "optim.lr=0.02"))
    assert len({one.sweep, *(planned("standard pgd", *words).sweep for words in other)}) == 5
    three = {planned("standard pgd", "--set", f"measure.step={text}").sweep for text in ("0.5", "1/2", "0.50")}
    assert len(three) == 1 and three.isdisjoint({one.sweep})
    made = planned("standard pgd", "--cell", "pgd", "--set", "method=trades")
    assert made.sweep == one.sweep and made.studies.keys().isdisjoint(one.studies)


class Sweep:
    """A command without training: every trial and seed run that the log lacks is told to it. ran: their ids."""

    def __init__(self, planned, workspace):
        self.planned, self.ran = sweep_logs.continued(planned, workspace), []
        self.tracker = Tracker(workspace, planned.experiment, sweep_tags(self.planned))
        self.tracker.start_sweep("title", "note")
        for study, cell in self.planned.studies.items():
            self.tracker.start_study(study, cell.name, study_tags(self.planned, cell), {})
        self.tracker.log_removed(self.planned.space_cells)
        for study, cell in self.planned.studies.items():
            trial = cell.trial
            self.tracker.on_winners(study, [trial.key], 0)
            self._run(Job(study, "search", 0, trial))
            self._run(Job(study, "seed", 1, dataclasses.replace(trial, seed=1), trial.key))
            self.tracker.log_winner(study, {"test/robust": 0.5})
        self.tracker.close()

    def _run(self, job):
        if not self.tracker.is_complete(job):
            self.ran.append(job.id)
            scores = [Score(f"{split}/robust", 0.5, 0.1, 9) for split in ("val", "test")]
            self.tracker.on_start(job)
            self.tracker.on_end(
                job, Outcome("complete", 3, Result(job.trial, scores, [], {"train": 1.0}, {"test": "ab"}))
            )


def told(sweep, workspace):
    """The table of the sweep, as delivered to MLflow, and the number of runs there."""
    uri = f"sqlite:///{workspace.out}/mlflow.db"
    deliver_all(uri, sweep.tracker.log, workspace)
    return runs.read(uri, sweep.planned.experiment, sweep.planned.sweep)


def counted(table):
    return {cell: sorted(of["role"]) for cell, of in table.groupby("cell")}


BOTH = ["search", "seed"]
OTHER, THIRD = ("--set", "method.steps=3"), ("--set", "method.steps=4")  # settings of the cell `pgd` alone


def test_a_cell_more_or_less_loses_nothing(planned, workspace, empty_store):
    """What is unchanged keeps its runs; what the space has no more is listed apart, and comes back with all it had."""
    shutil.copy(empty_store, workspace.out / "mlflow.db")
    first = Sweep(planned("standard pgd"), workspace)
    made = Sweep(planned("standard pgd", "--cell", "pgd", "--set", "method=trades"), workspace)
    assert len(first.ran) == 4 and len(made.ran) == 2
    more = Sweep(planned("standard sat pgd"), workspace)
    assert [job.split("/")[1][:3] for job in more.ran] == ["sat", "sat"] and more.tracker.log == first.tracker.log
    table = told(more, workspace)
    assert counted(table) == {"standard": BOTH, "pgd": BOTH, "sat": BOTH, "trades": BOTH} and "removed" not in table
    assert list(dict.fromkeys(table["cell"]))[:3] == [
        "standard",
        "sat",
        "pgd",
    ]  # in the order of the space as it is now
    less = Sweep(planned("standard"), workspace)
    table = told(less, workspace)
    assert less.ran == [] and counted(table) == {"standard": BOTH, "trades": BOTH}
    board = build_leaderboard(table)
    about = "1 trials, 1 seed runs, test/robust 0.500"
    assert board.removed == (("sat", about), ("pgd", about)) and len(board.rows) == 2
    assert f"no longer in the space: pgd: {about}" in terminal.text(board)
    again = Sweep(planned("standard pgd"), workspace)
    assert again.ran == [] and counted(told(again, workspace)) == {"standard": BOTH, "pgd": BOTH, "trades": BOTH}


def test_a_study_of_two_sweeps_is_told_to_both(planned, workspace, empty_store):
    """A setting that one cell has makes another sweep, which runs that cell only."""
    shutil.copy(empty_store, workspace.out / "mlflow.db")
    first = Sweep(planned("standard pgd"), workspace)
    other = Sweep(planned("standard pgd", "--set", "method.steps=3"), workspace)
    assert {job.split("/")[1][:3] for job in other.ran} == {"pgd"} and other.tracker.log != first.tracker.log
    assert counted(told(other, workspace)) == {"standard": BOTH, "pgd": BOTH}
    assert set(told(other, workspace)["sweep"]) == {other.planned.sweep}
    assert runs.report_name(told(first, workspace), "smoke-digits") == "smoke-digits"
    assert runs.report_name(told(other, workspace), "smoke-digits") == f"smoke-digits-{other.planned.sweep}"
    times = [event["time"] for event, _ in sweep_logs.event_log.read_events(other.tracker.log)]
    assert min(times) < other_began(other)  # of what was taken over: those of then


class Stopped:
    """A command that starts a trial of the cell `standard`, and ends it in this state, or is interrupted before."""

    def __init__(self, planned, workspace, state=""):
        self.tracker = Tracker(workspace, planned.experiment, sweep_tags(planned))
        self.tracker.start_sweep("title", "note")
        for study, cell in planned.studies.items():
            self.tracker.start_study(study, cell.name, study_tags(planned, cell), {})
        study, cell = next(iter(planned.studies.items()))
        self.job = Job(study, "search", 0, cell.trial)
        if not self.tracker.is_complete(self.job):
            self.tracker.on_start(self.job)
            if state:
                scores = [Score("val/robust", 0.5, 0.1, 9)]
                result = Result(self.job.trial, scores, [], {"train": 1.0}, {}) if state == "complete" else None
                reason = "" if result else "of the machine"
                self.tracker.on_end(self.job, Outcome(state, 3, result, reason=reason))
        self.tracker.close("FINISHED" if state else "KILLED")

    def run(self, workspace):
        """State, reason, score and status of the trial's run, as the sweep's own log has them."""
        (run,) = (r for r in logged_runs(self.tracker.log, workspace.out) if r.info.run_id == self.job.id)
        tags = run.data.tags
        score = run.data.metrics.get("val/robust")
        return tags["harness.state"], tags.get("harness.reason", ""), score, run.info.status, tags["harness.sweep"]


@pytest.mark.parametrize("before", ["", "failed"])
def test_a_trial_that_another_sweep_went_on_with_is_told_to_all(planned, workspace, before):
    """Its study is told of its end once, by the command that saw it: no later one runs it."""
    plain, other, third = (planned("standard pgd", *words) for words in ((), OTHER, THIRD))
    began = Stopped(plain, workspace, before)
    assert began.run(workspace)[0] == (before or "running")
    ended = Stopped(other, workspace, "complete")
    for sweep, words in ((plain, ()), (other, OTHER), (third, THIRD), (plain, ())):
        again = Stopped(planned("standard pgd", *words), workspace)
        assert again.run(workspace) == ("complete", "", 0.5, "FINISHED", sweep.sweep)
    assert ended.run(workspace)[0] == "complete"
    size = again.tracker.log.read_bytes().count(b'["val/robust"')
    assert Stopped(plain, workspace).tracker.log.read_bytes().count(b'["val/robust"') == size == 1  # and once


def test_a_clock_that_was_set_back_mixes_up_no_run_that_is_taken_over(planned, workspace, monkeypatch):
    monkeypatch.setattr(sweep_logs.event_log.time, "time", iter(range(10**6, 0, -1)).__next__)
    Stopped(planned("standard pgd"), workspace, "complete")
    other = Stopped(planned("standard pgd", *OTHER), workspace)
    assert other.run(workspace)[:4] == ("complete", "", 0.5, "FINISHED")


def test_the_sweeps_are_listed_and_the_one_written_last_is_named(planned, workspace, empty_store, capsys, monkeypatch):
    """Also where nothing new was run in it."""
    shutil.copy(empty_store, workspace.out / "mlflow.db")
    monkeypatch.chdir(workspace.out)
    uri = f"sqlite:///{workspace.out}/mlflow.db"
    plain, other = planned("standard pgd"), planned("standard pgd", "--set", "epochs=4", "--seed", "2")
    written = []
    for sweep in (plain, other, plain):
        time.sleep(0.002)  # MLflow's times are in milliseconds
        told(Sweep(sweep, workspace), workspace)
        assert __main__.main(["--tracking-uri", uri, "--list"]) == 0
        written.append([line.split("  ") for line in capsys.readouterr().out.splitlines()])
    held = "2 cells, 2 trials, 2 seed runs"
    expected = {plain.sweep: [held], other.sweep: [held, "epochs=4 --seed 2"]}
    for lines, order in zip(written, ([plain], [other, plain], [plain, other]), strict=True):
        assert [line[:2] for line in lines] == [["smoke-digits", sweep.sweep] for sweep in order]
        assert all(line[3:] == expected[line[1]] and line[2].endswith(" UTC") for line in lines)
    for words, name in (([], "smoke-digits"), (["--sweep", other.sweep], f"smoke-digits-{other.sweep}")):
        assert __main__.main(["--tracking-uri", uri, "--experiment", "smoke-digits", *words]) == 0
        said = capsys.readouterr().out
        assert said.startswith(f"{name}: sweep {name.partition('smoke-digits-')[2] or plain.sweep}  ")
        assert f"report: runs/reports/{name}.html" in said


def other_began(sweep):
    return next(event["time"] for event, _ in sweep_logs.event_log.read_events(sweep.tracker.log))


def test_an_output_of_the_earlier_identity_goes_on(planned, workspace, empty_store):
    shutil.copy(empty_store, workspace.out / "mlflow.db")

    def earlier(cells):
        made = planned(cells)
        return Sweep(dataclasses.replace(made, sweep=made.former_sweep), workspace)

    old = earlier("standard pgd")
    same = Sweep(planned("standard pgd"), workspace)
    assert same.ran == [] and same.tracker.log == old.tracker.log
    more = Sweep(planned("standard pgd sat"), workspace)
    assert {job.split("/")[1][:3] for job in more.ran} == {"sat"} and more.planned.sweep != old.planned.sweep
    assert counted(told(more, workspace)) == {"standard": BOTH, "pgd": BOTH, "sat": BOTH}
    assert counted(told(old, workspace)) == {"standard": BOTH, "pgd": BOTH}  # and can still be read
    with open(old.tracker.log, "ab") as file:
        file.write(b"damaged\n")
    (workspace.out / "track" / "other.jsonl").write_text("no log\n")
    for at, line in enumerate(("[]", '{"run":7,"time":1}', '{"run":"a","time":1,"begin":{}}')):
        header = '{"log":"a","experiment":"smoke-digits"}'
        (workspace.out / "track" / f"other{at}.jsonl").write_text(f"{header}\n{line}\n")
    assert Sweep(planned("standard pgd sat"), workspace).ran == []  # what is damaged elsewhere stops nothing


def test_a_variant_of_the_earlier_identity_gets_its_name(planned, workspace, empty_store):
    shutil.copy(empty_store, workspace.out / "mlflow.db")
    made = planned("standard", "--set", "epochs=4")
    old = Sweep(dataclasses.replace(made, sweep=made.former_sweep, settings=""), workspace)
    again = Sweep(made, workspace)
    assert again.ran == [] and again.tracker.log == old.tracker.log
    assert runs.report_name(told(again, workspace), "smoke-digits") == f"smoke-digits-{made.former_sweep}"
