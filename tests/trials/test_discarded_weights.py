"""A trial whose weights were discarded: what it is good for, and how they come back."""

import pytest
import torch

from harness.errors import UserError
from harness.trials import discarded_weights
from harness.trials import run as trial_run


def test_of_what_was_tested_nothing_goes():
    names = ["result.json", "val.npz", "weights.pt", "lock"]
    assert discarded_weights.discardable(names) == ["weights.pt"]
    assert discarded_weights.discardable(["trial.json", "checkpoint.pt"]) == ["checkpoint.pt"]
    for name in ("test.npz", "measuring-test", "evaluation-val-0123abcd.json", "evaluation-test-0123abcd"):
        assert discarded_weights.discardable([*names, name]) == []
    sizes = {f"trials/{key}/{name}": 1 for key in "ab" for name in names} | {"trials/b/measuring-test/x": 1}
    assert discarded_weights.discarded("abc", sizes) == {"trials/a/weights.pt": 1}
    assert discarded_weights.by_kind({**sizes, "cache/maps/x": 5, "mlflow.db": 7, "teachers/t/weights.pt": 2}) == {
        "trials": 9,
        "teachers": 2,
        "maps": 5,
    }


def test_discarded_weights_come_back_when_a_test_or_a_command_asks_for_them(workspace, quick):
    trial = quick(method="standard", epochs=1)
    folder = workspace.trial(trial.key)
    before = trial_run.run(trial, workspace)
    state = torch.load(folder / "weights.pt", weights_only=True)

    def same():
        now = torch.load(folder / "weights.pt", weights_only=True)
        return all(torch.equal(now[name], value) for name, value in state.items())

    def discard():
        discarded_weights.discard(trial.key, workspace)
        assert not (folder / "weights.pt").exists() and (folder / "result.json").exists()

    discard()
    assert trial_run.run(trial, workspace) == before and not (folder / "weights.pt").exists()
    with pytest.raises(UserError, match=rf"^trial {trial.key} has a result and no weights, .* --retrain trains it"):
        trial_run.trained_model(trial, workspace)
    _, again = trial_run.trained_model(trial, workspace, retrain=True)
    assert same() and [s.record() for s in again.scores] == [s.record() for s in before.scores]

    discard()
    tested = trial_run.run(trial, workspace, test=True)
    assert same() and tested.test_evaluations == 1 and tested.of("test")
    assert [s.record() for s in tested.of("val")] == [s.record() for s in before.scores]

    discarded_weights.discard(trial.key, workspace)
    assert same()  # it was tested with these
    (folder / "weights.pt").unlink()
    with pytest.raises(UserError, match=rf"^trial {trial.key} was tested with weights that are gone, .*; restore '"):
        trial_run.trained_model(trial, workspace, retrain=True)
    assert (folder / "result.json").exists()
