"""Spaces: every one that exists imports, fits every embedded data set, and starts from the published setting."""

import random

import pytest
from optuna.distributions import IntDistribution

from harness import cli
from harness.config.search_domains import choice, contains, integer, log, resolve, times, uniform, within
from harness.config.space import Space, grid
from harness.config.trial import build
from harness.errors import UserError


@pytest.mark.parametrize("name", cli.spaces())
@pytest.mark.parametrize("data", ["digits", "shapes", "cifar10", "tiny-imagenet"])
def test_contract(name, data):
    space = cli.space(name)
    cells = space.cells({"data": data})
    assert len({cell.name for cell in cells}) == len(cells)
    assert len({space.digest(cell) for cell in cells}) == len(cells)
    for cell in cells:
        assert cell.trial.data.name == data
        assert cell.proposed(cell.published()) == cell.trial
        assert all(contains(domain, cell.published()[path]) for path, domain in cell.search.items())
    assert cli.summary(name).endswith(("?", "?)", ".", ")"))


def test_controls_have_only_the_domains_that_they_have_a_path_for():
    cells = {cell.name: cell for cell in cli.space("sat").cells({})}
    assert set(cells["standard"].search) == {"optim.lr"}
    assert set(cells["noise"].search) == {"optim.lr", "method.eps"}
    assert set(cells["smoothgrad, pgd teacher"].search) == {"optim.lr", "method.eps", "method.alpha10"}
    assert cells["standard"].control and not cells["smoothgrad, pgd teacher"].control


def test_times_is_the_published_ablation_grid():
    cell = next(c for c in cli.space("sat_alpha").cells({"data": "cifar100"}))
    assert cell.search["method.eps"].choices == pytest.approx((2 / 255, 4 / 255, 8 / 255, 16 / 255))
    assert cell.search["method.alpha10"] == choice(0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


def test_overrides_fix_a_path_in_every_cell_that_has_it():
    cells = {cell.name: cell for cell in cli.space("sat").cells({"method.eps": "0.1", "epochs": "2"})}
    assert cells["noise"].trial.method.eps == 0.1
    assert "method.eps" not in cells["noise"].search
    assert all(cell.trial.epochs == 2 for cell in cells.values())


@pytest.mark.parametrize(
    "overrides, words",
    [
        ({"method.alhpa10": "1"}, ["alhpa10", "alpha10"]),
        ({"epoch": "1"}, ["epoch", "epochs"]),
        ({"method.eps": "big"}, ["method.eps", "big"]),
        ({"maps.teacher": "pgd"}, ["maps.teacher", "compares"]),
        ({"method": "pgd"}, ["method", "compares"]),
    ],
)
def test_an_override_that_no_cell_has_is_a_mistake(overrides, words):
    with pytest.raises(UserError) as mistake:
        cli.space("sat").cells(overrides)
    assert all(word in str(mistake.value) for word in words)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"goal": "test/robust"}, ["test/robust"]),
        ({"floor": {"test/clean": 0.5}}, ["test/clean"]),
        ({"search": {"method.alhpa": uniform(0, 1)}}, ["method.alhpa"]),
        ({"search": {"optim.lr": choice("fast")}}, ["optim.lr"]),
        ({"search": {"optim.lr": log(1, 2)}}, ["optim.lr", "outside"]),
        ({"search": {"epochs": choice(18, 2.5)}}, ["epochs"]),
        ({"search": {"epochs": uniform(9, 36)}}, ["sat", "epochs", "integer(low, high)"]),
        ({"search": {"epochs": integer(19, 36)}}, ["epochs", "19 to 36", "18 is outside"]),
        ({"search": {"epochs": integer(0, 36)}}, ["epochs", "at least 1"]),
        ({"search": {"method.schedule": within(3)}}, ["sat", "method.schedule", "'power'"]),
        ({"search": {"measure.step": within(3)}}, ["sat", "measure.step", "logarithmic"]),
        ({"controls": ("nobody",)}, ["nobody"]),
        ({"trials": 0}, ["trials", "from 1 to 1000000", "0"]),
        ({"trials": 10**22}, ["trials", "from 1 to 1000000"]),
        ({"seeds": -1}, ["seeds", "from 0", "-1"]),
        ({"halving": 2.5}, ["halving", "whole number", "2.5"]),
        ({"compare": {"a": {"method": "stat"}}}, ["stat", "sat"]),
    ],
)
def test_a_wrong_space_does_not_come_into_being(change, words):
    with pytest.raises(UserError) as mistake:
        Space(**{"base": {}, "compare": {"sat": {"method": "sat"}}, "search": {"optim.lr": within(2)}, **change})
    assert all(word in str(mistake.value) for word in words)


def test_domains():
    assert resolve(within(10), 0.1) == log(0.01, 1.0)
    assert resolve(times(0.5, 2), 4).choices == (2, 8)
    cells = grid("{a}-{b}", a=("x", (1, 2)), b=("y", (3,)))
    assert cells == {"1-3": {"x": 1, "y": 3}, "2-3": {"x": 2, "y": 3}}


def test_budgets_are_no_part_of_a_study_and_domains_are():
    plain = Space(base={}, compare={"sat": {"method": "sat"}}, search={"optim.lr": within(2)})
    (cell,) = plain.cells({})
    wider = Space(base={}, compare={"sat": {"method": "sat"}}, search={"optim.lr": within(3)})
    longer = Space(base={}, compare={"sat": {"method": "sat"}}, search={"optim.lr": within(2)}, trials=99, seeds=9)
    assert longer.digest(longer.cells({})[0]) == plain.digest(cell)
    assert wider.digest(wider.cells({})[0]) != plain.digest(cell)


def test_a_goal_is_a_share_or_a_likeness():
    with pytest.raises(UserError, match="such as val/robust or val/strong-in, not 'val/cw20_l2'"):
        Space({}, {"a": {}}, {}, goal=("val/robust", "val/cw20_l2"))


def test_what_a_space_takes_as_a_domain_gives_trials_wherever_it_is_searched():
    """Also between its ends: of a setting that is a whole number, 5.5 is no value."""
    rng, suites = random.Random(0), {"measure.suites": "standard,attribution"}
    taken = 0
    for name in ("sat", "art", "trades_sat"):
        for path, value in build({"method": name, **suites}).flat().items():
            for domain in (uniform(1, 9), log(1, 9), uniform(0, 1), integer(0, 9)):
                inside = type(value)(domain.low + 1) if isinstance(value, int | float) else value
                base = {"method": name, **suites, path: inside}
                try:
                    (cell,) = Space(base=base, compare={"one": {}}, search={path: domain}).cells({})
                except UserError:
                    continue
                taken += 1
                for _ in range(3):
                    whole = isinstance(domain, IntDistribution)
                    cell.proposed({path: rng.randint(0, 9) if whole else rng.uniform(domain.low, domain.high)})
    assert taken > 60
