"""Trials from dotted paths: types, bounds, nearest names, keys."""

import dataclasses

import pytest

import methods
from harness.config.dataset_defaults import DATASET_DEFAULTS
from harness.config.trial import Trial, build, check_settings_used
from harness.errors import UserError
from harness.setting_types import later
from harness.training.settings import Optim


@pytest.mark.parametrize("name", methods.names())
@pytest.mark.parametrize("data", DATASET_DEFAULTS)
def test_every_method_on_every_data_set_survives_its_own_description(name, data):
    trial = build({"method": name, "data": data})
    assert build(trial.flat()) == trial
    assert build(trial.flat()).key == trial.key


def test_defaults_of_a_data_set_lie_under_the_settings():
    assert build({"data": "cifar10"}).model == "resnet10"
    assert build({"data": "cifar10", "model": "resnet18"}).model == "resnet18"
    assert build({"method": "pgd", "data": "digits"}).method.eps == pytest.approx(48 / 255)
    assert build({"method": "pgd", "data": "cifar10"}).method.eps == pytest.approx(8 / 255)


def test_numbers_are_read_from_text():
    trial = build(
        {"method": "sat", "method.eps": "4/255", "epochs": "3", "measure.eps": "1/255,2/255", "normalise": "true"}
    )
    assert trial.method.eps == 4 / 255
    assert trial.epochs == 3
    assert trial.measure.eps == (1 / 255, 2 / 255)
    assert trial.normalise is True
    assert build({"method": "sat", "method.alpha10": "1"}).method.alpha10 == 1.0
    assert build({"optim.lr": "1e-3"}).optim.lr == 1e-3


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"method": "pgd_sta"}, ["pgd_sta", "pgd_sat"]),
        ({"method": "sat", "method.alhpa10": 0.1}, ["SAT", "alhpa10", "alpha10"]),
        ({"optim.learning": 0.1}, ["Optim", "learning"]),
        ({"optim.lr": f"{10**400}/1"}, ["optim.lr", "finite"]),
        ({"method": "trades", "method.beta": 10**400}, ["method.beta", "finite"]),
        ({"epoch": 3}, ["epoch", "epochs"]),
        ({"epochs": "many"}, ["epochs", "many"]),
        ({"epochs": 2.5}, ["epochs", "2.5"]),
        ({"epochs": True}, ["epochs", "True"]),
        ({"normalise": "perhaps"}, ["normalise", "perhaps"]),
        ({"epochs": 0}, ["epochs", "0"]),
        ({"optim.lr": -1.0}, ["optim.lr", "-1"]),
        ({"optim.lr": "nan"}, ["optim.lr", "nan"]),
        ({"optim.name": "agd"}, ["agd", "sgd"]),
        ({"method": "pgd", "method.eps": -0.1}, ["method.eps", "-0.1"]),
        ({"method": "sat", "method.schedule": "powre"}, ["powre", "power"]),
        ({"optim": 3}, ["optim.lr"]),
        ({"epochs.more": 3}, ["epochs"]),
        ({"data.val": 1.0}, ["data.val"]),
        ({"data.name": "digits"}, ["data"]),
        ({"measure.eps": "1/0"}, ["measure.eps", "1/0"]),
        ({"measure.eps": ()}, ["measure.eps"]),
        ({"optim.average": 1.0}, ["optim.average"]),
        ({"optim.momentum": -1.0}, ["optim.momentum"]),
        ({"optim.weight_decay": -1.0}, ["optim.weight_decay"]),
        ({"data.split": -1}, ["data.split"]),
        ({"method": "sat", "method.alpha10": -1.0}, ["method.alpha10", "[0, 1]"]),
        ({"method": "pgd_sat", "method.flip": 7}, ["method.flip", "[0, 1]"]),
        ({"method": "pgd", "method.steps": -3}, ["method.steps"]),
        ({"method": "trades", "method.beta": -3.0}, ["method.beta"]),
        ({"method": "pgd", "method.eps": 8.0}, ["method.eps", "8/255"]),
    ],
)
def test_a_mistake_names_the_thing_in_one_line(settings, words):
    with pytest.raises(UserError) as mistake:
        build(settings)
    assert "\n" not in str(mistake.value)
    assert all(word in str(mistake.value) for word in words)


def test_key_tells_apart_what_changes_numbers_and_nothing_else():
    base = build({"method": "sat"})
    assert build({"method": "sat", "method.eps": base.method.eps}).key == base.key
    different = [
        {"method.eps": 0.1},
        {"seed": 1},
        {"epochs": 3},
        {"maps.teacher": "pgd"},
        {"measure.steps": 3},
        {"data.split": 1},
        {"augment.flip": True},
    ]
    keys = {build({"method": "sat", **d}).key for d in different} | {base.key}
    assert len(keys) == len(different) + 1


def test_maps_are_no_part_of_a_method_that_reads_none():
    assert build({"method": "pgd", "maps.teacher": "pgd"}).key == build({"method": "pgd"}).key
    assert not any(path.startswith("maps.") for path in build({"method": "pgd"}).flat())


def test_a_trial_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        build({}).epochs = 3
    assert {f.name for f in dataclasses.fields(Trial)} >= {"method", "data", "optim", "maps", "seed"}


def test_attribution_belongs_to_a_trial_that_measures_it():
    plain, measured = build({}), build({"measure.suites": "standard,attribution"})
    assert not [path for path in plain.flat() if path.startswith("attribution")]
    assert measured.flat()["attribution.k"] == 10 and measured.key != plain.key
    assert build({"measure.suites": "attribution", "attribution.maps": "gradient,smoothgrad"}).attribution.maps == (
        "gradient",
        "smoothgrad",
    )
    check_settings_used(measured, ["attribution.k"])
    with pytest.raises(UserError, match=r"^attribution\.k has no effect: name a suite"):
        check_settings_used(plain, ["epochs", "attribution.k"])
    for path, value in (("k", 0), ("points", 0), ("steps", 0), ("restarts", 0), ("eps", -0.1), ("images", -1)):
        with pytest.raises(UserError, match=rf"^attribution\.{path} must be at least"):
            build({"measure.suites": "attribution", f"attribution.{path}": value})


KEYS = [  # of version 0.1.0: the stored results of these settings are found by them
    ({}, "9848d56b5489"),
    ({"method": "sat"}, "b560b4c97600"),
    ({"method": "trades", "data": "cifar10"}, "7524db57d1c2"),
    ({"method": "sat", "data": "shapes", "maps.saliency": "mask", "seed": 3}, "998801b9d0af"),
    ({"method": "art", "measure.suites": "standard,attribution"}, "fda6c358edf5"),
    ({"method": "pgd", "data": "cub", "optim.lr": 0.02}, "b9a8780ff7a6"),
]


@pytest.mark.parametrize("settings, key", KEYS)
def test_keys_of_earlier_versions_stay(settings, key):
    assert build(settings).key == key


@dataclasses.dataclass(frozen=True)
class OptimOfLater(Optim):
    """Optimiser settings of a later version, which has one more."""

    warmup: int = later(0)


def test_a_setting_of_a_later_version_is_not_in_the_key_at_its_default():
    settings, key = KEYS[1]
    trial = build(settings)
    with_more = dataclasses.replace(trial, optim=OptimOfLater(**vars(trial.optim)))
    assert with_more.flat() == {**trial.flat(), "optim.warmup": 0}
    assert with_more.identity() == trial.identity() and with_more.key == key
    changed = dataclasses.replace(with_more, optim=dataclasses.replace(with_more.optim, warmup=1))
    assert changed.identity() == {**trial.identity(), "optim.warmup": 1} and changed.key != key


def test_the_later_settings_of_data_leave_older_keys_as_they_are():
    plain = build({"method": "sat", "data": "mine"})
    assert {"data.image", "data.test_share"} <= plain.flat().keys() - plain.identity().keys()
    for path, unset, value in (("data.image", "", "photo"), ("data.test_share", 0, 0.2)):
        assert build({"method": "sat", "data": "mine", path: unset}).key == plain.key
        other = build({"method": "sat", "data": "mine", path: value})
        assert other.flat()[path] == value and other.key != plain.key and build(other.flat()) == other
    with pytest.raises(UserError, match=r"data\.test_share must lie in \[0, 1\)"):
        build({"data.test_share": 1.0})
