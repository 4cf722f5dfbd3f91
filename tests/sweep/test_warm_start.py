"""Outcomes of an earlier study: what fits is known to the sampler, and to nothing else."""

import shutil

import pytest

from harness import sweep_driver
from harness.config.search_domains import uniform
from harness.config.space import NamedSpace, Space
from harness.errors import UserError
from harness.evaluation import versions
from harness.storage.sealed_json import read_json, write_json
from harness.sweep import optuna_journal, warm_start
from harness.sweep.request import Request
from harness.sweep.study import KNOWN_FROM, Study


@pytest.fixture
def earlier(undisturbed, tmp_path):
    """The output of an earlier sweep of `smoke`: a function from a request's fields to its warm start and new study."""
    shutil.copytree(undisturbed.out, tmp_path / "out")

    def made(experiment="smoke-digits", search=None, **fields):
        compare = {"standard": {"method": "standard"}, "other": {"method": "pgd"}}
        space = Space(
            base={"epochs": 4, "measure.watch": 2},
            compare=compare,
            search={"optim.lr": search or uniform(1e-4, 10)},
            floor={"val/clean": 0.1},
        )
        request = Request(NamedSpace("new", space), out=str(tmp_path / "out"), **fields)
        planned, workspace = sweep_driver.prepared(request)
        storage = optuna_journal.open_journal(tmp_path / "out" / "optuna.journal")
        warm = warm_start.read(planned, experiment, storage, workspace)
        (name, cell), *_ = planned.studies.items()
        return warm, warm.known[name], lambda: Study(name, space, cell, 3, storage, 0)

    return made


def results(tmp_path):
    return [file for file in (tmp_path / "out/trials").glob("*/result.json")]


def test_what_fits_is_known_to_the_sampler_and_to_nothing_else(earlier):
    warm, known, opened = earlier()
    assert known and "the search of 1 of 2 cells knows" in str(warm)
    study = opened()
    before = (study.remaining(), study.n_started, study.stalled(), study.winners())
    for _ in range(2):
        for one in known:
            study.know(one.source, one.values, one.scores)
    stored = study._optuna.get_trials()
    told = [t for t in stored if KNOWN_FROM in t.user_attrs]
    assert [t.user_attrs[KNOWN_FROM] for t in told] == [one.source for one in known]
    assert [t.values for t in told] == [[one.scores["val/robust"]] for one in known]
    assert (study.remaining(), study.n_started, study.stalled(), study.winners()) == before == (3, 0, 0, [])
    assert study.next().trial.key == study.cell.trial.key, "the published setting is still the first trial"
    again = opened()
    assert (again.remaining(), again.winners()) == (3, [])


def test_what_does_not_fit_is_counted(earlier):
    _, known, _ = earlier()
    warm, inside, _ = earlier(search=uniform(0.0499, 0.0501))
    assert all(abs(one.values["optim.lr"] - 0.05) < 1e-4 for one in inside)
    assert warm.skipped.get("outside the domains", 0) == len(known) - len(inside)
    warm, none, _ = earlier(settings={"measure.steps": 3})
    assert not none and warm.skipped["measured by another protocol"] == len(known)
    assert "measured by another protocol" in str(warm)


def test_settings_that_differ_are_named(earlier):
    """They are known all the same: a shorter study may tell where to look."""
    (warm, known, _), (other, known_too, _) = earlier(), earlier(settings={"batch": 32, "optim.momentum": 0.5})
    assert "trained or measured with other epochs; not taken" in str(warm) and len(known) == len(known_too) > 0
    assert "trained or measured with other batch, epochs, optim.momentum; not taken" in str(other)


def test_an_unknown_experiment_has_the_nearest_name(earlier):
    with pytest.raises(UserError, match="experiment 'smoke-digit' is not known; did you mean 'smoke-digits'"):
        earlier("smoke-digit")


def test_other_data_are_refused(earlier, tmp_path):
    for file in results(tmp_path):
        record = read_json(file)
        write_json(file, {**record, "checksums": dict.fromkeys(record["checksums"], "0" * 12)})
    with pytest.raises(UserError, match="has other data than cell 'standard'"):
        earlier()


def test_another_version_of_measuring_is_refused(earlier, monkeypatch):
    monkeypatch.setitem(versions.VERSIONS, "attack", 99)
    with pytest.raises(UserError, match="by another version of measuring"):
        earlier()


def test_another_version_of_training_is_refused(earlier, monkeypatch):
    monkeypatch.setattr("harness.config.trial_key.TRAINING_VERSION", 99)
    with pytest.raises(UserError, match="was trained by another version"):
        earlier()
