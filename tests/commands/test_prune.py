"""The command that prunes an output folder, on one that was written with all weights. No training."""

import pytest
from outcomes import finished

from harness import prune
from harness.config.search_domains import uniform
from harness.config.space import Space
from harness.errors import UserError
from harness.storage.workspace import Workspace
from harness.sweep import optuna_journal
from harness.sweep.job_types import Outcome
from harness.sweep.study import Study

NAMES = ("trial.json", "result.json", "val.npz", "weights.pt")


def written(out):
    """An output folder with a worse and a better trial, and one that was stopped: their keys."""
    made = Space(base={"method": "standard", "epochs": 9}, compare={"one": {}}, search={"optim.lr": uniform(0.01, 1)})
    storage = optuna_journal.open_journal(out / "optuna.journal")
    study, keys = Study("one", made, made.cells({})[0], 3, storage, 0), []
    for value in (0.2, 0.4, None):
        job = study.next()
        study.on_end(job, Outcome("pruned", 3) if value is None else finished(job, val_robust=value))
        keys.append(job.key)
        (out / "trials" / job.key).mkdir(parents=True)
        for name in ("trial.json", "checkpoint.pt") if value is None else NAMES:
            (out / "trials" / job.key / name).write_bytes(bytes(1_000_000))
    for name in ("teachers/t/weights.pt", "trials/of-no-study/weights.pt", "cache/maps/maps.npy"):
        (out / name).parent.mkdir(parents=True)
        (out / name).write_bytes(bytes(1_000_000))
    return keys


def files(out):
    return {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file() and p.name != "lock"}


@pytest.mark.parametrize("remote", [False, True])
def test_it_removes_what_nothing_needs_and_says_so(tmp_path, capsys, monkeypatch, remote):
    out = tmp_path / "out"
    monkeypatch.setenv("HARNESS_SCRATCH", str(tmp_path / "scratch"))
    worse, _, stopped = written(out)
    before = files(out)
    argument = f"file://{out}" if remote else str(out)
    assert prune.main(["--out", argument, "--dry-run"]) == 0
    trials, *_ = capsys.readouterr().out.splitlines()[1:]
    assert trials == "trials: 9.0 of 11.0 MB would stay" and before <= files(out)
    assert prune.main(["--out", argument]) == 0
    assert capsys.readouterr().out == (
        "removed: 2 files, 2.0 MB\ntrials: 9.0 of 11.0 MB stay\nteachers: 1.0 MB stay\nmaps: 1.0 MB stay\n"
    )
    assert before - files(out) == {f"trials/{worse}/weights.pt", f"trials/{stopped}/checkpoint.pt"}
    assert prune.main(["--out", argument]) == 0
    assert capsys.readouterr().out.startswith("removed: 0 files, 0.0 MB\ntrials: 9.0 MB stay\n")


def test_it_refuses_a_folder_without_a_sweep_and_one_that_is_written_to(tmp_path):
    with pytest.raises(UserError, match="no sweep was written to"):
        prune.main(["--out", str(tmp_path / "none")])
    assert not (tmp_path / "none").exists()
    written(tmp_path)
    with Workspace(tmp_path).single_writer():
        with pytest.raises(UserError, match="another command is writing to"):
            prune.main(["--out", str(tmp_path)])
