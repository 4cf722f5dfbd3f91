"""Cells by name, and one more made of them: whose settings and domains it has, what it is called, what is said."""

import pytest

from harness import cli
from harness.config.chosen_cells import choose
from harness.config.search_domains import times, within
from harness.config.space import Space
from harness.config.trial import build
from harness.errors import UserError


def chosen(space, names, **overrides):
    return choose(cli.space(space), names, {path.replace("__", "."): value for path, value in overrides.items()})


def test_cells_are_chosen_by_name_in_the_order_of_the_space():
    every = chosen("pgd", [])
    assert every.cells == every.space_cells == cli.space("pgd").cells({})
    few = chosen("pgd", ["pgd + noise", "standard"], epochs="3")
    assert [cell.name for cell in few.cells] == ["standard", "pgd + noise"] and few.note == ""
    assert few.space_cells == cli.space("pgd").cells({"epochs": "3"})


def test_another_method_has_everything_else_of_its_base():
    made = chosen("art", ["art, eval mode"], method="sat", epochs="3")
    (cell,) = made.cells
    base = next(c for c in made.space_cells if c.name == "art, eval mode")
    theirs = {p: v for p, v in base.trial.flat().items() if not p.startswith("method")}
    assert theirs.items() <= cell.trial.flat().items() and cell.trial.epochs == 3
    assert cell.trial.method == build({"method": "sat"}).method
    assert cell.search == {path: base.search[path] for path in ("method.eps", "optim.lr")}
    assert made.note == (
        "cell art, eval mode is the base of sat: method = sat instead of art;"
        " it has no method.crafting, method.weight, method.beta"
    )
    assert cell.name == "sat" and not cell.control
    assert made.space_cells == cli.space("art").cells({"epochs": "3"})
    digests = [cli.space("art").digest(c) for c in (cell, *made.space_cells)]
    assert len(set(digests)) == len(digests)


def test_a_base_that_is_a_control_makes_no_control_and_the_same_cell():
    (of_control,), (of_pgd,) = (chosen("pgd", [base], method="trades").cells for base in ("standard", "pgd"))
    assert of_control == of_pgd and not of_control.control


@pytest.mark.parametrize(
    ("space", "base", "settings", "name"),
    [
        ("pgd", "pgd", {"method": "trades"}, "trades"),
        ("pgd", "pgd", {"method": "trades", "method__beta": "3"}, "trades, method.beta=3"),
        ("pgd", "pgd", {"method__steps": "3"}, "pgd, method.steps=3"),
        ("pgd", "pgd, 10 steps", {"method": "art"}, "pgd, 10 steps, method=art"),  # has steps, so keeps the base's
        ("sat", "noise", {"method": "sat", "maps__saliency": "gradient"}, "sat, maps.saliency=gradient"),
        ("sat", "noise", {"method": "trades"}, "trades"),
    ],
)
def test_the_name_says_what_differs(space, base, settings, name):
    (cell,) = chosen(space, [base], **settings).cells
    assert cell.name == name


def test_a_name_is_not_given_twice():
    space = Space({}, {"sat": {"method": "pgd"}, "other": {"method": "noise"}}, {"optim.lr": within(2)})
    assert choose(space, ["other"], {"method": "sat"}).cells[0].name == "other, method=sat"


def test_the_settings_of_a_new_method_are_its_own_whatever_other_cells_have_by_that_name():
    made = chosen("pgd", ["pgd"], method="trades", method__beta="3", method__eps="0.1", epochs="4")
    assert made.cells[0].trial.method.beta == 3 and "method.eps" not in made.cells[0].search
    assert made.space_cells == cli.space("pgd").cells({"epochs": "4"})
    assert made.cells[0].name == "trades, method.beta=3, method.eps=0.1"
    start = "cell pgd is the base of trades, method.beta=3, method.eps=0.1: method = trades instead of pgd, method.beta"
    assert made.note.startswith(start)
    for space, base, method, own in (
        ("attribution", "pgd", "pgd_noise", {"method.steps": "3"}),
        ("sat", "noise", "pgd_sat", {"maps.quantile": "0.3"}),
        ("art", "art", "trades", {"method.beta": "1"}),
        ("attribution", "pgd", "trades", {"method.beta": "6"}),
    ):
        made = choose(cli.space(space), [base], {"method": method, **own})
        assert made.space_cells == cli.space(space).cells({}), "it joins the report of the space"
        assert all(f"{path}={value}" in made.cells[0].name and path in made.note for path, value in own.items())


def test_a_setting_that_no_chosen_cell_has_is_refused():
    with pytest.raises(
        UserError, match=r"^method.flip has no effect: the method of cell 'standard' has no such setting"
    ):
        chosen("sat_family", ["standard"], method__flip="0.3")
    assert chosen("sat_family", ["standard", "pgd-sat"], method__flip="0.3").cells


def test_a_default_outside_the_spaces_domain_is_refused_with_the_way_out():
    with pytest.raises(UserError, match=r"which its default 1\.0 is outside; fix it, such as --set method\.beta=1\.0"):
        chosen("art", ["art"], method="trades")


@pytest.mark.parametrize(
    ("names", "settings", "words"),
    [
        ([], {"method": "trades"}, "choose one cell as its base: --cell pgd"),
        (["pgd", "standard"], {"method": "trades"}, "choose one cell as its base: --cell pgd"),
        (["pdg"], {}, "cell 'pdg' is not known; did you mean 'pgd'?"),
        (["mine.py:Mine"], {}, "(a method is tried in the place of a cell's own by --set method=mine.py:Mine)"),
        (["pgd"], {"method": "trade"}, "method 'trade' is not known; did you mean 'trades'?"),
        (["pgd"], {"method": "trades", "method.bta": "1"}, "has no 'bta'; did you mean 'beta'?"),
        (["pgd"], {"method": "trades", "epoch": "1"}, "has no 'epoch'; did you mean 'epochs'?"),
        (["pgd"], {"method": "pgd_noise"}, "choose it: --cell 'pgd + noise'"),
        (["standard"], {"method": "standard"}, "choose it: --cell standard"),
        (
            ["pgd"],
            {"method": "trades", "maps.saliency": "box"},
            "maps.saliency has no effect: method trades reads no maps",
        ),
    ],
)
def test_what_makes_no_cell_is_one_line(names, settings, words):
    with pytest.raises(UserError) as mistake:
        choose(cli.space("pgd"), names, settings)
    assert words in str(mistake.value)


def test_a_domain_around_no_number_is_one_line():
    cells = {"sat": {"method": "sat"}, "top": {"method": "art", "method.topk": 20}}
    space = Space({}, cells, {"method.topk": times(1, 2)})
    with pytest.raises(UserError, match=r"cell 'art' cannot search method\.topk around its default None; fix it"):
        choose(space, ["sat"], {"method": "art"})
    assert choose(space, ["sat"], {"method": "art", "method.topk": "9"}).cells[0].search == {}


def test_a_new_cell_of_many_settings_has_a_name_that_a_store_takes():
    settings = {f"optim.{name}": value for name, value in (("lr", "0.01"), ("clip", "1"), ("average", "0.5"))}
    settings |= {"measure.eps": ",".join(["8/255"] * 50), "method": "trades"}
    made = [choose(cli.space("pgd"), ["pgd, 10 steps"], settings | {"method.steps": n}).cells[0] for n in ("3", "4")]
    assert made[0].name != made[1].name and max(len(cell.name) for cell in made) <= 200
