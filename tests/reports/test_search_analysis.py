"""What the search tells: edges by rule, planted hyperparameters, Kendall's tau against SciPy, figures by hand."""

import json
import math

import numpy as np
import optuna
import pandas as pd
import pytest
import rows as made
import scipy.stats
from optuna.distributions import CategoricalDistribution, FloatDistribution

from harness.config.search_domains import choice, domain_as_json, integer, log, ordered, uniform
from harness.errors import UserError
from reports.analyse import curves as analyse_curves
from reports.analyse import (
    importance,
    other_selection_rules,
    rung_agreement,
    search_domain_tags,
    stats,
    winners_at_edge,
)
from reports.analyse.curves import Gap
from reports.analyse.winners_at_edge import Edge

EPS = domain_as_json(choice(0.25, 0.5, 1.0, 2.0))
SHARE = domain_as_json(uniform(0, 1))
LR = domain_as_json(log(0.01, 0.09))


def child(cell, role, number, state="complete", **more):
    """A row of a cell that is no control and comes the later, the longer its name."""
    return made.child(cell, role, number, state, **{"order": len(cell), "control": False, **more})


def table(*rows):
    runs = pd.DataFrame(rows)
    return runs.assign(number=runs["number"].astype("Int64"))


def tuned(value, space, path="optim.lr", cell="pgd", role="seed", number=1, **more):
    setting = {f"param:{path}": value, f"space:{path}": json.dumps(space), "val/robust": 0.5}
    measured = {"test/robust": 0.5} if role == "seed" else {}
    return child(cell, role, number, **setting | measured | more)


# ---- fields


def test_curves_are_read_as_they_are_written():
    assert analyse_curves.curve("6:0.2303 12:0.3125 18:0.36") == [(6, 0.2303), (12, 0.3125), (18, 0.36)]
    assert analyse_curves.curve(None) == analyse_curves.curve(math.nan) == analyse_curves.curve("") == []
    assert analyse_curves.curve("1:nan 2:0.5") == [(2, 0.5)]


@pytest.mark.parametrize("text", ["6", "6:", "a:0.5", "6:0.2,12:0.3", "6.5:0.1"])
def test_what_is_no_curve_is_refused(text):
    with pytest.raises(UserError, match="made of points such as"):
        analyse_curves.curve(text)


def test_domains_are_read_as_they_are_written():
    assert search_domain_tags.domain(json.dumps(SHARE)) == FloatDistribution(0, 1)
    assert search_domain_tags.domain(json.dumps(LR)) == FloatDistribution(0.01, 0.09, log=True)
    mixed = search_domain_tags.domain(json.dumps(domain_as_json(choice("sign", True, 3))))
    assert mixed == CategoricalDistribution(("sign", True, 3))
    assert search_domain_tags.domain('{"choices": [[1, 2], [3]]}').choices == ((1, 2), (3,))
    assert (
        search_domain_tags.domain(None) is search_domain_tags.domain(math.nan) is search_domain_tags.domain("") is None
    )


@pytest.mark.parametrize(
    "text", ["[1, 2]", "3", "low", '{"low": 0}', '{"low": 2, "high": 1}', '{"low": 0, "high": 1, "log": true}']
)
def test_what_is_no_domain_is_refused(text):
    with pytest.raises(UserError, match="a domain"):
        search_domain_tags.domain(text)


# ---- edges


@pytest.mark.parametrize(
    ("value", "space", "side"),
    [
        ("0.05", {"low": 0.0, "high": 10.0}, ""),  # 0 cannot be moved
        ("2.4", {"low": 2.0, "high": 10.0}, "low"),  # 5 % of the width
        ("2.41", {"low": 2.0, "high": 10.0}, ""),
        ("9.6", {"low": 2.0, "high": 10.0}, "high"),
        ("9.59", {"low": 2.0, "high": 10.0}, ""),
        ("0.0112", LR, ""),  # 9 ** 0.05 = 1.116
        ("0.0111", LR, "low"),
        ("0.0807", LR, "high"),
        ("0.0806", LR, ""),
        ("0.00999999999", LR, "low"),  # a digit lost as text
        ("0.99", SHARE, ""),
        ("0.01", SHARE, ""),
        ("0.99", {"low": 0.7, "high": 1.0}, ""),
        ("0.71", {"low": 0.7, "high": 1.0}, "low"),
        ("0.99", {"low": 0.1, "high": 1.0, "log": True}, "high"),  # a share would not be logarithmic
        ("1", {"low": -1.0, "high": 1.0}, "high"),
        ("3", {"low": 3.0, "high": 3.0}, ""),
        ("0.25", EPS, "low"),
        ("0.5", EPS, ""),
        ("2", EPS, "high"),
        ("0.666666667", {"choices": [1.0, 2 / 3, 3.0]}, "low"),  # in the order of numbers, with nine digits
        ("10", {"choices": [10.0, 50.0]}, ""),
        ("0", {"choices": [0.0, 0.5, 2.0]}, ""),
        ("1", {"choices": [0.0, 0.2, 1.0]}, ""),
        ("1", {"choices": [0.25, 0.5, 1.0]}, "high"),
        ("sign", {"choices": ["sign", "median", "none"]}, ""),
        ("True", {"choices": [True, False]}, ""),
        ("1", {"choices": [1, 2, "none"]}, ""),
        ("1", domain_as_json(integer(1, 9)), "low"),
        ("2", domain_as_json(integer(1, 9)), ""),
        ("9", domain_as_json(integer(1, 9, log=True)), "high"),
        ("1", domain_as_json(integer(0, 1)), "high"),  # no share
        ("0.5", domain_as_json(ordered(0.5, 1.0, 8.0)), "low"),
    ],
)
def test_the_rule_of_the_edge(value, space, side):
    of = search_domain_tags.domain(json.dumps(space))
    expected = [Edge("pgd", "optim.lr", float(value), of, side)] if side else []
    assert winners_at_edge.edges(table(tuned(value, space))) == expected


def test_the_winner_is_what_its_seeds_were_trained_with():
    rows = [
        tuned("0.01", LR, role="search", number=0, **{"val/robust": 0.9}),
        tuned("0.03", LR, number=1),
        tuned("0.03", LR, number=2),
        tuned("0.09", LR, number=3, state="failed"),
    ]
    assert winners_at_edge.edges(table(*rows)) == []
    before = table(*rows[:1])
    assert [e.side for e in winners_at_edge.edges(before)] == ["low"]


def test_before_seeds_ran_the_winner_is_the_best_finished_trial_or_the_named_one():
    rows = [
        tuned("0.03", LR, role="search", number=0, **{"val/robust": 0.5}),
        tuned("0.01", LR, role="search", number=1, **{"val/robust": 0.6}),
        tuned("0.09", LR, role="search", number=2, state="pruned", **{"val/robust": 0.9}),
    ]
    assert [(e.value, e.side) for e in winners_at_edge.edges(table(*rows))] == [(0.01, "low")]
    named = [row | {"winners": rows[0]["key"]} for row in rows]
    assert winners_at_edge.edges(table(*named)) == []
    assert winners_at_edge.edges(table(*[row | {"winners": ""} for row in rows])) == []


def test_edges_follow_the_order_of_cells_and_know_several_winners():
    pair = {"goal": "val/robust,val/clean", "winners": "a,b"}
    rows = [tuned("0.01", LR, number=1, winner="a", **pair), tuned("0.09", LR, number=2, winner="b", **pair)]
    rows += [tuned("0.01", LR, cell="standard"), child("at", "search", 0, **{"val/robust": 0.1})]
    found = [(e.cell, e.side) for e in winners_at_edge.edges(table(*rows))]
    assert found == [("pgd #1", "low"), ("pgd #2", "high"), ("standard", "low")]


# ---- importance


def planted(path, rng, cells=6, each=6, noise=0.5, only=None):
    """Finished trials of cells that differ in level and spread; the goal hangs on one hyperparameter of three."""
    rows = []
    for c in range(cells):
        level, spread = rng.normal(0, 2), math.exp(rng.normal(0, 0.7))
        for number in range(each):
            eps, share, lr = rng.integers(4), rng.random(), rng.random()
            inside = {"method.eps": eps / 3, "method.alpha10": share, "optim.lr": lr}
            goal = level + spread * (inside[path] / 0.29 + noise * rng.normal()) if path else level
            row = child(f"cell {c}", "search", number, **{"val/robust": goal})
            texts = {"method.eps": EPS["choices"][eps], "method.alpha10": share, "optim.lr": 0.01 * 9**lr}
            spaces = {"method.eps": EPS, "method.alpha10": SHARE, "optim.lr": LR}
            for name in texts:
                if name != "method.alpha10" or only is None or c in only:
                    row |= {f"param:{name}": f"{texts[name]:.9g}", f"space:{name}": json.dumps(spaces[name])}
            rows.append(row)
    return table(*rows)


@pytest.mark.sample(1)
@pytest.mark.parametrize("path", ["method.eps", "method.alpha10", "optim.lr"])
def test_a_planted_hyperparameter_has_the_largest_share(path):
    found = 0
    for seed in range(20):
        result = importance.importance(planted(path, np.random.default_rng(seed)))
        assert result.trials == 36 and not result.why_not
        assert sum(share for _, share in result.shares) == pytest.approx(1)
        assert [share for _, share in result.shares] == sorted((s for _, s in result.shares), reverse=True)
        found += result.shares[0][0] == path
    assert found >= 18


def test_a_path_that_some_cells_search_can_be_the_important_one():
    runs = planted("method.alpha10", np.random.default_rng(0), cells=10, noise=0.1, only=range(5))
    assert importance.importance(runs).shares[0][0] == "method.alpha10"


@pytest.mark.parametrize("domain", [ordered(0.25, 0.5, 1.0, 2.0), integer(1, 4), integer(1, 4, log=True)])
def test_a_path_of_whole_numbers_or_of_an_order_can_be_the_important_one(domain):
    runs = planted("method.eps", np.random.default_rng(0), cells=10, noise=0.1)
    if domain != ordered(*EPS["choices"]):
        whole = {f"{value:.9g}": str(1 + index) for index, value in enumerate(EPS["choices"])}
        runs["param:method.eps"] = runs["param:method.eps"].map(whole)
    runs["space:method.eps"] = json.dumps(domain_as_json(domain))
    found = importance.importance(runs)
    assert found.trials == 60 and found.shares[0][0] == "method.eps" and found.shares[0][1] > 0.5


def test_one_cell_agrees_with_optuna_on_its_raw_goal():
    runs = planted("optim.lr", np.random.default_rng(3), cells=1, each=40)
    study = optuna.create_study(direction="maximize")
    of = {
        "optim.lr": optuna.distributions.FloatDistribution(0.01, 0.09, log=True),
        "method.alpha10": optuna.distributions.FloatDistribution(0, 1),
        "method.eps": optuna.distributions.CategoricalDistribution(EPS["choices"]),
    }
    for row in runs.to_dict("records"):
        params = {path: float(row[f"param:{path}"]) for path in of}
        study.add_trial(optuna.trial.create_trial(params=params, distributions=of, value=row["val/robust"]))
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=0.5)
    there = optuna.importance.get_param_importances(study, evaluator=evaluator)
    assert dict(importance.importance(runs).shares) == pytest.approx(there)


def test_pruned_and_failed_trials_and_seeds_do_not_enter():
    runs = planted("optim.lr", np.random.default_rng(1))
    noise = [
        child(f"cell {i % 6}", role, 90 + i, state, **{"val/robust": 99.0, "param:optim.lr": "0.01"})
        | {"space:optim.lr": json.dumps(LR)}
        for i, (role, state) in enumerate(12 * [("search", "pruned"), ("search", "failed"), ("seed", "complete")])
    ]
    unmeasured = child("cell 0", "search", 200, **{"val/robust": math.nan})
    more = pd.concat([runs, table(*noise, unmeasured)], ignore_index=True)
    assert importance.importance(more) == importance.importance(runs)


def test_importance_does_not_hang_on_the_order_of_the_runs():
    runs = planted("optim.lr", np.random.default_rng(2))
    again = importance.importance(runs.sample(frac=1, random_state=0))
    assert [p for p, _ in again.shares] == [p for p, _ in importance.importance(runs).shares]
    assert dict(again.shares) == pytest.approx(dict(importance.importance(runs).shares))


def test_levels_and_spreads_of_cells_do_not_matter():
    runs = planted("optim.lr", np.random.default_rng(4))
    scale = runs["cell"].map(lambda cell: 10.0 ** int(cell[-1]))
    moved = runs.assign(**{"val/robust": runs["val/robust"] * scale - scale})
    assert importance.importance(moved) == importance.importance(runs)


def test_what_cannot_be_told_says_why():
    rng = np.random.default_rng(0)
    constant = importance.importance(planted("", rng))
    assert constant.shares == [] and constant.trials == 0 and "0 finished trials" in constant.why_not
    few = importance.importance(planted("optim.lr", rng, cells=4))
    assert few.shares == [] and few.trials == 24 and "24 finished trials" in few.why_not
    alone = importance.importance(planted("optim.lr", rng, cells=40, each=1))
    assert alone.trials == 0 and alone.why_not
    runs = planted("optim.lr", rng)
    assert "searched" in importance.importance(runs[[c for c in runs if not c.startswith("space:")]]).why_not
    stuck = runs.assign(**{c: runs[c].iloc[0] for c in runs if c.startswith("param:")})
    assert importance.importance(stuck).shares == [] and "different values" in importance.importance(stuck).why_not
    assert importance.importance(runs.drop(columns=[c for c in runs if c.startswith("param:")])).why_not


def test_importance_is_quiet(capfd):
    before = optuna.logging.get_verbosity()
    importance.importance(planted("optim.lr", np.random.default_rng(0), cells=31, each=2, only=[0]))
    assert capfd.readouterr() == ("", "") and optuna.logging.get_verbosity() == before


# ---- fidelity


def trials(cell, curves, finals, **more):
    """Finished trials with these curves and final goals."""
    texts = [" ".join(f"{e}:{v}" for e, v in points) for points in curves]
    pairs = zip(texts, finals, strict=True)
    return [
        child(cell, "search", i, **{"curve:robust": text, "val/robust": final, **more})
        for i, (text, final) in enumerate(pairs)
    ]


def test_fidelity_agrees_with_scipy_where_cells_are_alike():
    rng = np.random.default_rng(0)
    early, final = rng.integers(0, 6, 12) / 10, rng.integers(0, 6, 12) / 10  # with ties
    curves = [[(6, a), (12, b)] for a, b in zip(early, final, strict=True)]
    rows = [row for cell in ("a", "bb") for row in trials(cell, curves, final)]
    first, last = rung_agreement.rung_agreement(table(*rows))
    assert first.tau == pytest.approx(scipy.stats.kendalltau(early, final).statistic)
    assert (first.epoch, first.n, first.curve) == (6, 24, "robust")
    assert (last.epoch, last.tau) == (12, pytest.approx(1))


def test_fidelity_compares_within_cells_and_weighs_them_by_their_pairs():
    a = trials("a", [[(1, v)] for v in (0.1, 0.2, 0.3, 0.4)], [0.1, 0.2, 0.3, 0.4])  # 6 pairs agree
    b = trials("bb", [[(1, v)] for v in (0.9, 0.8, 0.7)], [0.7, 0.8, 0.9])  # 3 disagree
    lone = trials("ccc", [[(1, 0.0)]], [1.0])
    (rung,) = rung_agreement.rung_agreement(table(*a, *b, *lone))
    assert rung.tau == pytest.approx((6 - 3) / 9) and rung.n == 7
    level = trials("dddd", [[(1, 0.5)]] * 5, [0.1, 0.2, 0.3, 0.4, 0.5])  # a curve without any order
    (rung,) = rung_agreement.rung_agreement(table(*a, *b, *level))
    assert rung.tau == pytest.approx((6 - 3) / math.sqrt(9 * 19)) and rung.n == 12


def test_epochs_of_too_few_trials_have_no_fidelity():
    three = [[(1, v)] for v in (0.1, 0.2, 0.3)]
    a, b = trials("a", three, [0.1, 0.2, 0.3]), trials("bb", three, [0.1, 0.2, 0.3])
    assert [r.n for r in rung_agreement.rung_agreement(table(*a, *b))] == [6]
    assert rung_agreement.rung_agreement(table(*a, *b[:2])) == []  # five trials
    assert rung_agreement.rung_agreement(table(*trials("a", three * 2, [0.1] * 3 + [0.2] * 3))) == []  # one cell
    assert rung_agreement.rung_agreement(table(*trials("a", three, [0.1] * 3), *trials("bb", three, [0.2] * 3))) == []
    pruned = [row | {"state": "pruned"} for row in a]
    assert rung_agreement.rung_agreement(table(*pruned, *b)) == []
    assert rung_agreement.rung_agreement(table(child("a", "search", 0))) == []


def test_a_goal_without_a_curve_is_foretold_by_robust_accuracy():
    rows = trials("a", [[(1, v)] for v in (0.1, 0.2, 0.3)], [0, 0, 0], goal="val/art-in")
    rows += trials("bb", [[(1, v)] for v in (0.1, 0.2, 0.3)], [0, 0, 0], goal="val/art-in")
    rows = [row | {"val/art-in": 1 - row["number"] / 10} for row in rows]
    (rung,) = rung_agreement.rung_agreement(table(*rows))
    assert (rung.tau, rung.curve) == (pytest.approx(-1), "robust")
    own = [row | {"curve:art-in": f"1:{1 - row['number'] / 10}"} for row in rows]
    (rung,) = rung_agreement.rung_agreement(table(*own))
    assert (rung.tau, rung.curve) == (pytest.approx(1), "art-in")


# ---- rows


CURVES = ("6:0.3 12:0.5 18:0.4", "6:0.2 12:0.3 18:0.3", "6:0.6 12:0.2 18:0.5")


def seeds(cell="pgd", **more):
    return [
        child(
            cell,
            "seed",
            i,
            **{
                "test/robust": 0.5 + i / 10,
                "val/robust": 0.4 + i / 10,
                "curve:robust": text,
                "seconds/train": 10.0 * i,
                "param:epochs": "10",
                "winner": f"{cell}search2",
                "winners": f"{cell}search2",
            },
            **more,
        )
        for i, text in enumerate(CURVES, 1)
    ]


def test_gaps_are_means_over_seeds():
    failed = child("pgd", "seed", 9, "failed", **{"test/robust": 0.1, "curve:robust": "6:9 12:0"})
    bare = child("at", "seed", 1, **{"test/robust": 0.1})
    found = analyse_curves.gaps(table(*seeds(), failed, bare))
    assert found == {"pgd": Gap(pytest.approx((0.5 + 0.3 + 0.6) / 3), pytest.approx(0.4), 12.0, "robust")}
    assert analyse_curves.gaps(table(bare)) == {}


def test_seconds_per_epoch_have_the_interval_of_stats():
    found = analyse_curves.epoch_seconds(table(*seeds(), child("at", "seed", 1, **{"test/robust": 0.1})))
    assert found["pgd"] == pytest.approx(stats.interval([1.0, 2.0, 3.0]))
    assert all(map(math.isnan, found["at"]))
    assert all(
        map(math.isnan, analyse_curves.epoch_seconds(table(child("at", "seed", 1, **{"test/robust": 0.1})))["at"])
    )


def test_rules_by_hand():
    search = [
        child("pgd", "search", 0, **{"val/robust": 0.50, "val/clean": 0.7}),
        child("pgd", "search", 1, **{"val/robust": 0.30, "val/clean": 0.9}),
        child("pgd", "search", 2, **{"val/robust": 0.80, "val/clean": 0.6}),
        child("pgd", "search", 3, "pruned", **{"val/robust": 0.99, "val/clean": 0.99}),
        child("pgd", "search", 4, "failed"),
        child("other", "search", 0, **{"val/robust": 0.1, "val/clean": 0.99}),
    ]
    (rule,) = other_selection_rules.rules(table(*search, *seeds()))
    assert rule.row == "pgd"
    assert (rule.reported, rule.best_seed) == (pytest.approx(0.7), pytest.approx(0.8))
    assert (rule.searched, rule.fresh) == (0.80, pytest.approx(0.6))
    assert (rule.published, rule.by_clean) == (0.50, 0.30)
    assert rule.best_epoch == pytest.approx((0.5 + 0.3 + 0.6) / 3 - 0.4)


def test_rules_without_what_they_need_are_nan():
    published = child("pgd", "search", 0, "pruned", **{"val/robust": 0.9})
    (rule,) = other_selection_rules.rules(table(published, child("pgd", "seed", 1, **{"test/robust": 0.4})))
    assert (rule.reported, rule.best_seed) == (0.4, 0.4)
    rest = (rule.searched, rule.fresh, rule.published, rule.by_clean, rule.best_epoch)
    assert all(map(math.isnan, rest))
    assert other_selection_rules.rules(table(published)) == []
    (bare,) = other_selection_rules.rules(table(child("pgd", "seed", 1, **{"test/robust": 0.4})))
    assert bare.reported == 0.4 and math.isnan(bare.searched) and math.isnan(bare.by_clean)


def test_every_winner_of_a_cell_has_its_own_rule():
    pair = {"goal": "val/robust,val/clean", "winners": "pgdsearch0,pgdsearch1"}
    scores = [{"val/robust": 0.8, "val/clean": 0.5}, {"val/robust": 0.7, "val/clean": 0.6}]
    rows = [child("pgd", "search", i, **scores[i], **pair) for i in (0, 1)]
    rows += [child("pgd", "seed", i, winner=f"pgdsearch{i}", **{"test/robust": 0.5 + i / 10}, **pair) for i in (0, 1)]
    first, second = other_selection_rules.rules(table(*rows))
    assert (first.row, first.searched, first.reported) == ("pgd #1", 0.8, 0.5)
    assert (second.row, second.searched, second.by_clean) == ("pgd #2", 0.7, 0.7)
