"""Search domains: what a real Optuna study proposes in them, and that stored studies and tags stay readable."""

import ast
import hashlib
import json
from pathlib import Path

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from outcomes import finished

import harness.config
from harness import cli
from harness.config import search_domains
from harness.config.search_domains import choice, contains, integer, log, ordered, resolve, times, uniform, within
from harness.config.setting_text import format_setting
from harness.config.space import Space
from harness.config.trial import build
from harness.errors import UserError
from harness.sweep import optuna_journal
from harness.sweep.study import Study

# Of the studies of all cells on four data sets, before domains were Optuna's distributions.
DIGESTS = {
    "art": "e01c4634",
    "attribution": "b27df26c",
    "ig_norm": "4820c9b9",
    "ig_sum_norm": "92d5696a",
    "localization": "6aa76aa7",
    "noise": "ce28e300",
    "pgd": "8f2fa3f8",
    "pgd_sat": "6b5c629d",
    "sat": "d48a00ed",
    "sat_alpha": "3b22e916",
    "sat_family": "38232cda",
    "smoke": "f58a189f",
    "standard": "47e941bc",
    "trades": "4bf19893",
    "trades_sat": "ff96f668",
}


@pytest.mark.parametrize("name", DIGESTS)
def test_studies_of_every_space_are_found_again(name):
    space = cli.space(name)
    cells = [cell for data in ("digits", "shapes", "cifar10", "tiny-imagenet") for cell in space.cells({"data": data})]
    digest = hashlib.sha256(" ".join(map(space.digest, cells)).encode()).hexdigest()[:8]
    assert digest == DIGESTS[name], "studies of this space would start anew: right only if its settings changed"


@pytest.mark.parametrize(
    ("domain", "text"),
    [
        (uniform(0, 1), "Uniform(low=0, high=1)"),
        (uniform(0.0, 1), "Uniform(low=0.0, high=1)"),
        (log(1, 12.0), "Log(low=1, high=12.0)"),
        (resolve(within(10), 0.1), "Log(low=0.01, high=1.0)"),
        (choice("power", True, None, (1, 2)), "Choice(values=('power', True, None, (1, 2)))"),
        (resolve(times(0.5), 4), "Choice(values=(2,))"),
    ],
)
def test_the_text_of_a_kind_stays(domain, text):
    assert search_domains.digest_text(domain) == text


KINDS = {
    "uniform": (uniform(0, 1), "method.alpha10", lambda v: 0 <= v <= 1),
    "log": (log(0.01, 0.2), "optim.lr", lambda v: 0.01 <= v <= 0.2),
    "integer": (integer(3, 40), "epochs", lambda v: type(v) is int and 3 <= v <= 40),
    "integer, log": (integer(3, 40, log=True), "epochs", lambda v: type(v) is int and 3 <= v <= 40),
    "choice": (choice("power", "linear"), "method.schedule", lambda v: v in ("power", "linear")),
    "ordered": (ordered(16, 64, 256), "batch", lambda v: type(v) is int and v in (16, 64, 256)),
    "ordered names": (ordered("small", "resnet10", "resnet18"), "model", lambda v: isinstance(v, str)),
    "times": (times(0.5, 1), "method.eps", lambda v: v in (24 / 255, 48 / 255)),
    "within": (within(3), "optim.lr", lambda v: 0.05 / 3 <= v <= 0.05 * 3),
    "within, whole": (within(3), "epochs", lambda v: type(v) is int and 6 <= v <= 54),
    "Optuna's own": (IntDistribution(8, 28, step=5), "epochs", lambda v: v in (8, 13, 18, 23, 28)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_proposals_are_inside_and_begin_with_the_published_value(kind, tmp_path):
    domain, path, inside = KINDS[kind]
    space = Space({"method": "sat"}, {"sat": {}}, {path: domain})
    (cell,) = space.cells({})
    values = []
    for budget in (12, 24):  # the second continues the journal of the first
        study = Study("sat", space, cell, budget, optuna_journal.open_journal(tmp_path / "journal"), 0)
        while (job := study.next()) is not None:
            values.append(job.trial.flat()[path])
            study.on_end(job, finished(job, val_robust=len(values) / 24))
    assert values[0] == cell.published()[path] and len(values) == 24 and all(map(inside, values))
    assert len(set(values)) > 1 and all(search_domains.contains(cell.search[path], value) for value in values)
    assert study.winners() == [cell.proposed({path: values[-1]})]


@pytest.mark.parametrize(
    ("domain", "inside", "outside"),
    [
        (optuna.distributions.FloatDistribution(0, 1, step=0.25), (0, 0.25, 1.0), (0.6, 1.25)),
        (optuna.distributions.FloatDistribution(0.1, 0.7, step=0.2), (0.3, 0.1 + 0.2 + 0.2), (0.4,)),
        (optuna.distributions.IntDistribution(1, 9, step=4), (1, 5, 9), (3, 10)),
        (integer(2, 32, log=True), (2, 7), (1, 2.5)),
    ],
)
def test_a_value_between_two_steps_is_outside(domain, inside, outside):
    assert all(contains(domain, value) for value in inside)
    assert not any(contains(domain, value) for value in outside)


def test_the_sampler_knows_the_order_of_ordered_values(tmp_path):
    space = Space({"method": "sat"}, {"sat": {}}, {"batch": ordered(32, 64, 128)})
    storage = optuna_journal.open_journal(tmp_path / "journal")
    study = Study("sat", space, space.cells({})[0], 2, storage, 0)
    study.next(), study.next()
    trials = optuna.load_study(study_name="sat", storage=storage).trials
    assert [t.distributions for t in trials] == [{"batch": IntDistribution(0, 2)}] * 2
    assert trials[0].params == {"batch": 1}  # the published 64


@pytest.mark.parametrize(
    "domain",
    [
        uniform(0, 1),
        log(0.5, 12),
        choice(0.25, "sign", True),
        choice((1, 2), (3,)),
        integer(1, 9),
        integer(1, 9, log=True),
        ordered(1, 4, 16),
        ordered("low", "high"),
        FloatDistribution(0, 1, step=0.5),
    ],
)
def test_tags_give_the_domain_back(domain):
    again = search_domains.domain_from_json(json.dumps(search_domains.domain_as_json(domain)))
    assert again == domain and type(again) is type(domain)


def test_tags_of_the_first_kinds_stay():
    assert search_domains.domain_as_json(uniform(0, 1)) == {"low": 0, "high": 1}
    assert search_domains.domain_as_json(log(0.5, 12.0)) == {"low": 0.5, "high": 12.0, "log": True}
    assert search_domains.domain_as_json(choice(1, "sign")) == {"choices": [1, "sign"]}


def test_ends_are_written_as_they_are_and_mean_what_optuna_means():
    assert json.dumps(search_domains.domain_as_json(uniform(0, 1))) == '{"low": 0, "high": 1}'
    assert uniform(0, 1) == FloatDistribution(0, 1) and choice(1, 2) == CategoricalDistribution((1, 2))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: uniform(1, 0), "from low to high"),
        (lambda: log(0, 1), "above 0"),
        (lambda: integer(0, 4, log=True), "above 0"),
        (lambda: integer(1, 2.5), "whole numbers"),
        (lambda: uniform(0, float("inf")), "from low to high"),
        (choice, "at least one"),
        (ordered, "each once"),
        (lambda: ordered(1, 2, 1), "each once"),
        (lambda: resolve(times(2), "power"), "'power', which is no number"),
    ],
)
def test_what_is_no_domain_is_refused(make, said):
    with pytest.raises(UserError, match=said) as mistake:
        make()
    assert "\n" not in str(mistake.value)


def test_strengths_are_shown_in_255ths_and_nothing_else():
    trial = build({"method": "pgd"})
    assert format_setting(trial, "method.eps", choice(4 / 255, 8 / 255)) == "4/255, 8/255"
    assert format_setting(trial, "method.step", uniform(1 / 255, 2.5 / 255)) == "1/255 to 2.5/255"
    assert format_setting(trial, "optim.lr", log(0.01, 0.1)) == "0.01 to 0.1, log"
    assert format_setting(trial, "epochs", integer(3, 40)) == "3 to 40"
    assert format_setting(trial, "batch", ordered(16, 64)) == "16, 64"
    assert format_setting(trial, "data", "digits") == "digits"


def test_of_optuna_this_room_imports_the_distributions_alone():
    imported = set()
    for file in Path(harness.config.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names if alias.name.startswith("optuna")}
            elif isinstance(node, ast.ImportFrom) and node.module.startswith("optuna"):
                imported.add(node.module)
    assert imported == {"optuna.distributions"}


def test_choices_of_several_numbers_are_searched_in_their_order():
    values = ((1, 2, 3), (1,), (2, 3))
    with pytest.raises(UserError, match=r"^cell 'adl' cannot search method.at: .*search it by ordered\(\.\.\.\)$"):
        Space({"method": "adl"}, {"adl": {}}, {"method.at": choice(*values)})
    (cell,) = Space({"method": "adl"}, {"adl": {}}, {"method.at": ordered(*values)}).cells({})
    assert cell.published() == {"method.at": (1, 2, 3)} and cell.proposed({"method.at": (1,)}).method.at == (1,)
