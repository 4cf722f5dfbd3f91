"""The reports: statistics against closed forms and SciPy, rows against a golden table, MLflow for real."""

import csv
import html.parser
import math
import shutil
import sys
from dataclasses import astuple

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from rows import PGD, STANDARD, attributed, child, family, leaderboard, row_names, seeds
from sweeps import finished

from harness.errors import UserError, exit_status
from harness.evaluation.metrics import METRICS
from reports.__main__ import main
from reports.analyse import counted_runs, published, rank_groups, stats
from reports.analyse.leaderboard import build_leaderboard
from reports.analyse.rows import Images
from reports.present import findings, number_format, reading_guide, tables
from reports.read import score_names
from reports.read.artifacts import Files
from reports.read.runs import experiments, read
from reports.write import terminal
from reports.write.csv import to_frame
from reports.write.report import write

# ---- statistics


def test_the_interval_of_three_is_the_textbook_one():
    mean, half = stats.interval([0.60, 0.62, 0.64])
    assert mean == pytest.approx(0.62)
    assert half == pytest.approx(4.302652729911275 * 0.02 / math.sqrt(3))  # t(0.975; 2) from the table


def test_the_interval_agrees_with_scipy():
    values = np.random.default_rng(0).normal(size=7)
    low, high = scipy.stats.t.interval(0.9, 6, values.mean(), scipy.stats.sem(values))
    mean, half = stats.interval(values, level=0.9)
    assert (mean - half, mean + half) == pytest.approx((low, high))


def test_few_values_give_no_interval_and_missing_ones_are_left_out():
    assert all(map(math.isnan, stats.interval([])))
    mean, half = stats.interval([0.5, math.nan])
    assert mean == 0.5 and math.isnan(half)
    assert stats.interval([0.4, math.nan, 0.6]) == stats.interval([0.4, 0.6])
    assert stats.interval([0.5, 0.5]) == (0.5, 0.0)


def test_the_difference_agrees_with_scipy():
    rng = np.random.default_rng(1)
    a, b = rng.normal(1, 2, 5), rng.normal(0, 0.3, 9)
    there = scipy.stats.ttest_ind(a, b, equal_var=False).confidence_interval()
    apart, half = stats.difference(a, b)
    assert (apart - half, apart + half) == pytest.approx((there.low, there.high))


def test_the_difference_without_spread_or_seeds():
    assert stats.difference([0.5, 0.5], [0.25, 0.25]) == (0.25, 0.0)
    apart, half = stats.difference([0.5], [0.25, 0.3])
    assert apart == pytest.approx(0.225) and math.isnan(half)
    assert math.isnan(stats.difference([], [0.1, 0.2])[0])


def test_groups_compare_with_the_best_of_the_group():
    best, near, far = [0.70, 0.72, 0.71], [0.69, 0.72, 0.70], [0.30, 0.31, 0.32]
    assert rank_groups.tied([best, near, far]) == [1, 1, 2]
    assert rank_groups.tied([best, [0.2]]) == [1, 1]  # one seed: nothing can be told apart
    assert rank_groups.tied([best, far, [0.1, 0.1, 0.1]]) == [1, 2, 3]
    assert rank_groups.tied([]) == []


# ---- rows


def test_a_golden_table():
    table = leaderboard(STANDARD, PGD)
    assert row_names(table) == ["pgd", "standard"]
    assert [row.group for row in table.rows] == [1, 2]
    first = table.rows[0]
    assert first.figure("test/robust").mean == pytest.approx(0.62)
    assert first.figure("test/robust").half == pytest.approx(0.0496827, abs=1e-6)
    assert first.difference.mean == pytest.approx(0.50) and table.control == "standard"
    assert first.difference.half == pytest.approx(0.0453391, abs=1e-6)  # t(0.975; 4) * 0.02 * sqrt(2 / 3)
    assert (first.seeds, first.cost.touches) == (3, 3)
    assert (first.val_images, first.test_images) == (288, 360)
    seconds = first.cost.seconds
    assert [seconds.train, seconds.evaluation, seconds.all_runs] == [2.0, 1.0, 9.0]
    assert math.isnan(table.rows[1].difference.mean)
    assert table.scores == ("test/robust", "test/clean", "test/pgd10-8")


def test_only_complete_seed_runs_enter():
    high = {"test/robust": 0.99, "test/clean": 0.99}
    noise = [
        child("pgd", "search", 7, **high),
        child("pgd", "search", 8, "pruned", **high),
        child("pgd", "seed", 8, "pruned", **high),
        child("pgd", "seed", 9, "failed", **high, reason="Diverged: the loss is nan"),
        child("pgd", "seed", 10, "running", **high),
        child("pgd", "seed", 11, **{"test/robust": math.nan, "test/clean": 0.99}),
    ]
    runs = pd.DataFrame([*STANDARD, *PGD, *noise])
    row = build_leaderboard(runs).rows[0]
    assert row.figure("test/robust").mean == pytest.approx(0.62)
    assert row.figure("test/clean").mean == pytest.approx(0.9)
    trials = row.cost.trials
    assert (row.seeds, trials.complete, trials.pruned, row.cost.seeds_failed) == (3, 1, 1, 1)
    failed = counted_runs.failures(runs)
    assert list(failed["number"]) == [9, 11]
    reasons = ["Diverged: the loss is nan", "finished without a number for test/robust"]
    assert list(failed["reason"]) == reasons


def test_a_sweep_whose_seed_runs_have_no_figure_counts_none():
    runs = pd.DataFrame([child("pgd", "search", 0) | {"test/robust": 0.5}, child("pgd", "seed", 1)])
    assert counted_runs.tested(runs).empty and "key" in counted_runs.tested(runs)


def test_a_trial_counts_once_with_its_last_run():
    later = pd.Timestamp("2026-02-01", tz="UTC")
    again = child("pgd", "seed", 3, **{"test/robust": 0.8}) | {"started": later}
    row = leaderboard(STANDARD, PGD, [again]).rows[0]
    assert row.seeds == 3 and row.figure("test/robust").mean == pytest.approx((0.60 + 0.62 + 0.8) / 3)


def test_an_overtaken_winner_does_not_count():
    old = [row | {"winners": "b", "winner": "a", "key": row["key"] + "a"} for row in seeds("pgd", [0.9, 0.9])]
    new = [row | {"winners": "b", "winner": "b"} for row in PGD]
    row = leaderboard(STANDARD, old, new).rows[0]
    assert row.figure("test/robust").mean == pytest.approx(0.62) and row.winner == "b"


def test_several_winners_of_a_cell_have_a_row_each():
    a = [row | {"winners": "a,b", "winner": "a", "goal": "val/robust,val/clean"} for row in PGD]
    b = [row | {"winner": "b", "key": row["key"] + "b", "test/robust": 0.3} for row in a]
    table = leaderboard(a, b)
    assert row_names(table) == ["pgd #1", "pgd #2"] and [row.seeds for row in table.rows] == [3, 3]


def test_the_front_holds_what_no_other_point_beats():
    points = [(3, 1), (2, 2), (1, 3), (2, 1), (3, 1), (math.nan, 9), (1, 1)]
    assert stats.front(points) == [True, True, True, False, True, False, False]
    assert stats.front([]) == [] and stats.front([(0.5,)]) == [True]


GOALS = {"goal": "val/robust,val/strong-in,val/strong-k"}


def test_several_goals_rank_by_the_first_and_show_their_front():
    strong = {"strong-in": (0.2, 0.9, 0.8, 0.9), "strong-k": (0.3, 0.1, 0.05, 0.1)}
    rows = []
    for i, (cell, robust) in enumerate((("standard", 0.1), ("pgd", 0.6), ("noise", 0.4), ("trades", 0.5))):
        found = {f"test/{name}": values[i] for name, values in strong.items()}
        rows += [row | found | GOALS for row in seeds(cell, [robust, robust + 0.02])]
    rows += [row | GOALS for row in seeds("sat", [0.05, 0.06])]  # its maps were not measured
    table = leaderboard(rows, [child("pgd_sat", "search", 0, **GOALS)])
    assert row_names(table) == ["pgd", "trades", "noise", "standard", "sat", "pgd_sat"]
    assert [row.front for row in table.rows] == [True, False, False, True, None, None]
    assert list(to_frame(table)["front"]) == ["yes", "no", "no", "yes", "", ""]
    assert table.goals == ("test/robust", "test/strong-in", "test/strong-k")
    assert set(to_frame(table)["goals"]) == {"test/robust,test/strong-in,test/strong-k"}
    ranking = tables.ranking(table)
    labels = ["Cell", "Robust", "vs standard", "Group", "Front", "Seeds", "IN (strong)", "K (strong)", "Clean"]
    assert [c.label for c in ranking.columns] == [*labels, "PGD-10 8/255"]
    assert [row[4].text for row in ranking.rows] == ["yes", "no", "no", "yes", number_format.NONE]
    said = dict(reading_guide.reading(pd.DataFrame(rows), table))["Front"]
    assert said.startswith("Goals are robust, IN (strong) and K (strong).") and "use robust only" in said
    assert "front" in terminal.text(table).splitlines()[2]


def test_one_goal_has_no_front():
    table = leaderboard(STANDARD, PGD)
    assert not {"front", "goals"} & set(to_frame(table))
    assert "Front" not in [c.label for c in tables.ranking(table).columns]
    assert "Front" not in dict(reading_guide.reading(pd.DataFrame(STANDARD + PGD), table))


def test_a_goal_is_shown_whatever_it_is():
    goal = {"goal": "val/robust,val/strong-spearman", "test/strong-spearman": -0.2, "test/strong-cosine": 0.9}
    shown = leaderboard([row | goal for row in PGD]).shown
    assert shown[:2] == ["test/robust", "test/strong-spearman"] and "test/strong-cosine" not in shown


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ([child("sat", "study", 0, "")], "no trial yet"),
        (
            [child("sat", "search", 0), child("sat", "search", 1, "pruned")],
            "no seed run yet; trials: 1 complete, 1 pruned",
        ),
        (
            [child("sat", "search", 0, "failed", reason="Diverged: epoch 2")],
            "every trial failed (1); Diverged: epoch 2",
        ),
        (
            [child("sat", "search", 0), child("sat", "seed", 1, "running")],
            "no usable seed run of the winner yet: 1 running",
        ),
        (
            [child("sat", "search", 0, winners="")],
            "no trial was good enough to be repeated: 1 complete",
        ),
    ],
)
def test_unfinished_cells_come_last_and_say_why(rows, why):
    table = leaderboard(rows, STANDARD, PGD)
    assert row_names(table) == ["pgd", "standard", "sat"]
    assert table.rows[2].not_finished == why and [row.group is None for row in table.rows] == [False, False, True]
    assert [row[1].text for row in tables.unfinished(table).rows] == [why]
    assert why in terminal.text(table)


def test_a_sweep_without_any_seed_run_still_reports(tmp_path):
    runs = pd.DataFrame([child("pgd", "search", 0), child("standard", "study", 0, "")])
    table = build_leaderboard(runs)
    assert terminal.text(table).startswith("No cell has finished yet.")
    html = page(runs, tmp_path)
    assert "No cell has finished yet." in html and "no trial yet" in html


def test_without_the_control_there_is_no_difference():
    table = leaderboard([child("standard", "search", 0)], PGD)
    assert math.isnan(table.rows[0].difference.mean) and table.control == ""
    assert "vs" not in terminal.text(table)


def test_one_seed_gives_a_mean_and_no_interval():
    table = leaderboard(STANDARD, seeds("pgd", [0.62]))
    assert math.isnan(table.rows[0].figure("test/robust").half) and [row.group for row in table.rows] == [1, 1]
    said = "".join(findings.headline(table))
    assert said == (
        "pgd leads with 62.0 % robust, 50.0 points above standard; "
        "a single seed gives no interval, so this is not conclusive."
    )
    assert "±" not in terminal.text(table).splitlines()[3]


def test_the_rank_follows_the_first_goal():
    goal = {"goal": "val/clean,val/robust"}
    table = leaderboard([row | goal | {"test/clean": 1 - row["test/robust"]} for row in STANDARD + PGD])
    assert row_names(table) == ["standard", "pgd"] and table.ranked_by == "test/clean"
    said = "".join(findings.headline(table))
    assert said == "standard is best: 88.0 ± 5.0 % clean, and it is the control."


# ---- words


def test_headlines():
    assert "".join(findings.headline(leaderboard(STANDARD, PGD))) == (
        "pgd is best: 62.0 ± 5.0 % robust, 50.0 ± 4.5 points above standard."
    )
    peers = leaderboard(STANDARD, PGD, seeds("trades", [0.61, 0.62, 0.62]), seeds("pgd_sat", [0.6, 0.61, 0.63]))
    assert findings.headline(peers)[1::2] == ["pgd", "standard", "trades", "pgd_sat"]
    assert "".join(findings.headline(peers)).endswith("; these seeds cannot distinguish trades and pgd_sat from it.")
    assert "".join(findings.headline(leaderboard(PGD))) == "pgd reached 62.0 ± 5.0 % robust."


@pytest.mark.parametrize(
    ("path", "text", "shown"),
    [
        ("method.eps", "0.0313725490", "8/255"),
        ("method.step", "0.0287", "7.32/255"),
        ("measure.eps", "(0.00784313725, 0.0156862745)", "2/255, 4/255"),
        ("method.alpha10", "0.612345678", "0.612"),
        ("optim.lr", "0.05", "0.05"),
        ("epochs", "18", "18"),
        ("augment.flip", "True", "True"),
        ("maps.saliency", "smoothgrad", "smoothgrad"),
    ],
)
def test_settings_are_written_as_people_do(path, text, shown):
    assert number_format.setting(path, text) == shown


def test_signed_points_know_no_negative_zero():
    assert number_format.points(-0.0001) == "0.0" and number_format.points(-0.012, 0.02) == "−1.2 ± 2.0"
    assert number_format.percent(math.nan) == number_format.NONE


def test_score_names():
    assert score_names.attack("test/pgd10x3-0.5") == (0.5, 10, 3)
    assert score_names.label("test/pgd10x3-8") == "PGD-10×3 8/255" and score_names.label("test/fgsm-8") == "FGSM 8/255"
    names = ["test/fgsm-8", "test/pgd5-16", "test/pgd5-8", "test/clean", "test/robust"]
    assert sorted(names, key=score_names.sort_key) == names[::-1]


@pytest.mark.parametrize(
    ("name", "parts", "label"),
    [
        ("art-in", ("art", "", "in"), "IN (ART)"),
        ("rar-k", ("rar", "", "k"), "K (RAR)"),
        ("strong-gradient-k", ("strong", "gradient", "k"), "K (strong, gradient)"),
        ("strong-gradcam_pp-in", ("strong", "gradcam_pp", "in"), "IN (strong, Grad-CAM++)"),
        ("strong-smoothgrad-lens_recall", ("strong", "smoothgrad", "lens_recall"), "LENS recall (strong, SmoothGrad)"),
        ("art-guided_backprop-cosine", ("art", "guided_backprop", "cosine"), "cosine (ART, guided_backprop)"),
        ("random-spearman", ("random", "", "spearman"), "Spearman (random)"),
        ("pgd10-8", None, "PGD-10 8/255"),
        ("bound_slack", None, "bound, slack"),
        ("completeness", None, "completeness"),
        ("fast-in", ("fast", "", "in"), "IN (fast)"),
        ("quick-in", None, "quick-in"),
        ("art-inn", None, "art-inn"),
    ],
)
def test_names_of_attributional_scores(name, parts, label):
    assert score_names.attribution(f"test/{name}") == parts and score_names.attribution(f"val/{name}") == parts
    assert score_names.label(f"test/{name}") == label


def test_attributional_scores_stand_between_clean_and_pgd():
    names = "robust clean art-in art-k art-spearman rar-in strong-in strong-lens_recall strong-gradient-in "
    names = [f"test/{name}" for name in (names + "strong-gradcam_pp-k strong-own-k random-in pgd10-8 fgsm-8").split()]
    assert sorted(names[::-1], key=score_names.sort_key) == names
    first = sorted(names, key=lambda name: score_names.sort_key(name, "val/strong-in", "val/robust"))
    assert first[:3] == ["test/strong-in", "test/robust", "test/clean"]


def test_tables_leave_checks_and_variants_to_the_csv():
    major = ("robust", "clean", "pgd10-8", "art-in", "strong-gradient-k")
    minor = ("fgsm-8", "random-in", "random-k", "strong-lens_recall", "art-cosine", "bound_left", "completeness")
    assert not any(map(score_names.is_minor, major)) and all(map(score_names.is_minor, minor))
    assert [name for name in (*major, *minor) if score_names.accuracy(name)] == ["robust", "clean", "pgd10-8", "fgsm-8"]
    assert [score_names.minimum(f"test/{n}") for n in ("robust", "art-in", "art-k", "art-cosine")] == [0, 0, -1, -1]


def test_what_was_measured():
    assert findings.measured(["test/robust", "test/pgd10-8"]) == "Accuracy"
    assert findings.measured(["test/art-in", "test/clean"]) == "Accuracy and IN"
    assert findings.measured(["test/art-k", "test/art-in", "test/rar-k"]) == "K and IN"
    assert number_format.listed([]) == "" and number_format.listed(["a", "b", "c"]) == "a, b and c"


# ---- attributions

SETTINGS = {
    "param:attribution.eps": "0.0313725490",
    "param:attribution.beta": "50",
    "param:attribution.k": "100",
    "param:attribution.steps": "50",
    "param:attribution.step": "0.0",
    "param:attribution.points": "10",
}
COUNTS = {"test_n/art-in": 90.0, "test_wrong/art-in": 8.0, "test_dropped/art-in": 2.0, "test_failed/art-in": 0.0}
COUNTS |= {"test_n/strong-in": 92.0, "test_wrong/strong-in": 8.0, "test_failed/strong-in": 3.0}
FOUND = {"art-in": 0.69, "art-k": 0.72, "strong-in": 0.5, "strong-k": -0.02, "random-in": 0.9, "strong-spearman": 0.1}


def test_a_golden_row_of_attributions():
    table = leaderboard(STANDARD, attributed("pgd", FOUND, **SETTINGS, **COUNTS))
    first = table.rows[0]
    assert table.scores == (
        *("test/robust", "test/clean", "test/art-in", "test/art-k", "test/strong-in", "test/strong-k"),
        *("test/strong-spearman", "test/random-in", "test/pgd10-8"),
    )
    found = first.figure("test/art-in")
    assert found.mean == pytest.approx(0.69) and found.half == pytest.approx(0.0248414, abs=1e-6)
    assert astuple(found.images) == (90, 8, 2, 0) and first.figure("test/strong-in").images.failed == 3
    assert first.figure("test/strong-spearman").images == first.figure("test/robust").images == Images()
    frame = to_frame(table)
    assert "n:test/art-in" in frame and "n:test/strong-spearman" not in frame and "n:test/robust" not in frame
    assert first.test_images == 360
    ranking = tables.ranking(table)
    assert ranking.caption == "Accuracy, IN and K on test in per cent: mean over seeds ± half of its 95 % interval"
    labels = ["Clean", "IN (ART)", "K (ART)", "IN (strong)", "K (strong)", "PGD-10 8/255"]
    assert [c.label for c in ranking.columns][5:] == labels
    texts = [e.text for e in ranking.rows[0]][6:10]
    assert texts == ["69.0 ± 2.5", "72.0 ± 2.5", "50.0 ± 2.5", "−2.0 ± 2.5"]
    assert [e.text for e in ranking.rows[1]][6:10] == [number_format.NONE] * 4  # standard was not measured so
    assert tables.ranking(leaderboard(STANDARD)).caption.startswith("Accuracy on test in per cent:")
    head = terminal.text(table).splitlines()[2]
    assert "clean  IN (ART)  K (ART)  IN (strong)  K (strong)  PGD-10 8" in head


def test_the_guide_explains_attributions():
    rows = attributed("pgd", FOUND, **SETTINGS, **COUNTS) + attributed("art", FOUND, **SETTINGS, **COUNTS)
    for row in rows[:3]:
        row["test_n/art-in"], row["test_dropped/art-in"] = 85.0, 7.0
    runs = pd.DataFrame(rows)
    said = dict(reading_guide.reading(runs, build_leaderboard(runs)))["Attributions"]
    assert "most important pixels (k = 100), the share that is still among them" in said and "Kendall's tau-b" in said
    assert "by at most 8/255 in 50 steps of eps / 8" in said and "attacks of strong use 10 interpolation points" in said
    assert "ART: protocol of Singh et al. (2020)" in said and "RAR" not in said
    assert "classified correctly: 85 to 92 a run (8 are not)." in said
    assert (
        "is dropped if every step changes its prediction (2 to 7 a run)." in said and "counts as 1 (3 a run)." in said
    )
    assert said.endswith("tolerate small shifts) and the control: random signs in place of the attack's.")
    assert "Attributions" not in dict(reading_guide.reading(family(), build_leaderboard(family())))


def test_the_guide_says_no_more_of_attributions_than_is_known():
    runs = pd.DataFrame(attributed("pgd", {"rar-k": 0.5}))
    said = dict(reading_guide.reading(runs, build_leaderboard(runs)))["Attributions"]
    assert "k = " not in said and "steps of" not in said and "a run" not in said and "CSV" not in said


@pytest.mark.parametrize(
    ("attack", "control", "doubted"),
    [
        (0.50, 0.80, False),  # the attack does more
        (0.80, 0.80, True),
        (0.80, 0.50, True),
        (0.795, 0.80, True),  # hardly more
        (1.00, 1.00, False),  # nothing lowers it: stable, perhaps
        (0.985, 0.995, False),
        (1.00, 0.95, True),  # stable under the attack alone: that one fails
    ],
)
def test_an_attack_has_to_do_better_than_random_signs(attack, control, doubted):
    cells = [attributed("sat", {"strong-in": 0.2, "random-in": 0.7}), attributed("pgd", {"strong-in": attack})]
    cells[1] = [row | {"test/random-in": control} for row in cells[1]]
    found = findings.warnings(leaderboard(*cells))
    assert len(found) == doubted
    if doubted:
        assert found[0].startswith("Random signs lower IN (strong) about as much as the attack does in: pgd. ")
        assert found[0].endswith("do not rely on these scores there without a stronger attack.")


def test_random_signs_are_held_against_the_strongest_attack_on_the_same_map():
    control = {"random-in": 0.6, "random-k": 0.6, "random-gradient-k": 0.6, "random-spearman": 0.1}
    art = {"art-in": 0.7, "art-k": 0.7, "strong-gradient-k": 0.3, "art-spearman": 0.9}
    (doubt,) = findings.warnings(leaderboard(attributed("pgd", control | art)))
    assert doubt.startswith("Random signs lower IN (ART) and K (ART) about")
    strong = {"strong-in": 0.3, "strong-k": 0.3}
    assert findings.warnings(leaderboard(attributed("pgd", control | art | strong))) == []
    assert findings.warnings(leaderboard(attributed("pgd", control))) == []


def test_many_dropped_images_are_called_out():
    few, many = COUNTS, COUNTS | {"test_n/art-in": 88.0, "test_dropped/art-in": 12.0}
    rows = [attributed("pgd", FOUND, **few), attributed("art", FOUND, **many)]
    (doubt,) = findings.warnings(leaderboard(*rows))
    assert doubt.startswith("Of the images attacked for IN (ART), many are dropped in: art (12.0 %).")
    assert "IN and K are over the rest only" in doubt
    quick = leaderboard(attributed("art", {"fast-in": 0.7}, **{k.replace("art", "fast"): v for k, v in many.items()}))
    (doubt,) = findings.warnings(quick)
    assert doubt.startswith("Of the images attacked for IN (fast), many are dropped in: art (12.0 %).")
    failed = {k: v for k, v in COUNTS.items() if "strong" in k} | {"test_dropped/strong-in": 50.0}  # these count as 1
    assert findings.warnings(leaderboard(attributed("art", FOUND, **failed))) == []


def test_a_score_below_zero_can_be_ranked_by(tmp_path):
    goal = {"goal": "val/strong-k", "test_stderr/strong-k": 0.01}
    rows = [row | goal for row in attributed("standard", {"strong-k": -0.3}) + attributed("pgd", {"strong-k": -0.1})]
    runs = pd.DataFrame(rows)
    table = build_leaderboard(runs)
    said = "".join(findings.headline(table))
    assert said == "pgd is best: −10.0 ± 2.5 % K (strong), 20.0 ± 2.3 points above standard."
    assert number_format.percent(-0.0001) == "0.0"
    assert "the same for all cells" not in dict(reading_guide.reading(runs, table))["Mean ± interval"]
    md, _, _, html = (file.read_text() for file in write(runs, tmp_path, "x"))
    assert Page(html).open == [] and '<h3 id="spread">K\N{NO-BREAK SPACE}(strong) on test</h3>' in html
    assert ">−40 %</text>" in html and ">0 %</text>" in html and "K, accuracy" not in html
    assert "| K (strong) |" in md and "−10.0 ± 2.5" in md


def test_the_heading_of_the_plot_names_an_accuracy_as_such(tmp_path):
    html = page(family(), tmp_path)
    assert '<h3 id="spread">Robust accuracy on test</h3>' in html


# ---- published figures

CIFAR = {
    "data": "cifar100",
    "method": "sat",
    "maps.saliency": "guided_backprop",
    "maps.teacher": "pgd",
    "measure.step": "0.00784313725",
    "method.eps": "0.0313725490",
    "method.schedule": "power",
    "method.per": "epoch",
    "data.limit": "0",
}


def test_published_figures_are_all_there():
    table = published.figures()
    counts = table.groupby("table").size().to_dict()
    assert counts == {
        "Tiny-ImageNet": 27,
        "Flower-17": 27,
        "CIFAR-100": 40,
        "ablation of alpha^10": 63,
        "ablation of eps0": 30,
        "main table": 64,
        "CIFAR-10-C": 45,
        "localisation on CUB-200-2011": 37,
    }
    methods = "standard noise sat pgd pgd_noise pgd_sat trades trades_noise trades_sat ig_norm ig_sum_norm art adl"
    assert set(table["method"]) == set(methods.split())
    met = table[table["score"] != ""]
    assert not met.duplicated(["table", "data", "method", "saliency", "teacher", "settings", "score"]).any()
    assert table["value"].between(0, 100).all()
    sic = table[table["note"].str.startswith("(sic)")]
    assert list(sic["value"]) == [5.43]


def test_a_figure_stands_only_beside_its_own_protocol():
    assert published.lookup(CIFAR, "test/pgd5-1")["value"] == 34.29
    assert published.lookup(CIFAR, "test/pgd10-1") is None
    assert published.lookup(CIFAR | {"measure.step": "0.01"}, "test/pgd5-1") is None
    assert published.lookup(CIFAR | {"data": "cifar10"}, "test/pgd5-1") is None
    assert published.lookup(CIFAR | {"data.limit": "500"}, "test/pgd5-1") is None
    assert published.lookup(CIFAR | {"maps.teacher": "trades"}, "test/pgd5-1") is None
    # A step of 0 stands for 2.5 * eps / steps: 2/255 at eps 4/255, another one at 1/255.
    assert published.lookup(CIFAR | {"measure.step": "0.0"}, "test/pgd5-4")["value"] == 4.22
    assert published.lookup(CIFAR | {"measure.step": "0.0"}, "test/pgd5-1") is None


def test_an_ablation_meets_its_very_point():
    assert published.lookup(CIFAR | {"method.alpha10": "0.8"}, "test/pgd5-2")["value"] == 17.71
    assert published.lookup(CIFAR | {"method.alpha10": "0.79"}, "test/pgd5-2")["table"] == "CIFAR-100"
    none = {k: v for k, v in CIFAR.items() if not k.startswith("maps.")} | {"method": "standard"}
    assert published.lookup(none, "test/pgd5-4")["value"] == 1.94


def test_boxes_need_no_teacher():
    tiny = CIFAR | {"data": "tiny-imagenet", "maps.saliency": "box", "maps.teacher": "standard"}
    assert published.lookup(tiny | {"data.size": "32"}, "test/pgd5-3")["value"] == 0.77
    assert published.lookup(tiny | {"data.size": "64"}, "test/pgd5-3") is None


ART = {
    "data": "cifar10",
    "method": "art",
    "measure.step": "0.00784313725",
    "attribution.eps": "0.0313725490",
    "attribution.beta": "50",
    "attribution.k": "100",
    "attribution.steps": "50",
    "data.limit": "0",
}


def test_the_main_table_of_singh_et_al_is_as_printed():
    table = published.figures()
    main = table[table["table"] == "main table"]
    printed = main.pivot(index=["data", "method"], columns="score", values="value")
    printed = printed[["test/art-in", "test/art-k", "test/clean", "test/pgd40-8"]]
    assert len(printed) == 16 and printed.notna().all(axis=None)
    assert list(printed.loc["cifar10", "art"]) == [92.90, 91.76, 89.84, 37.58]
    assert list(printed.loc["svhn", "pgd"]) == [39.67, 55.56, 92.84, 50.12]
    assert list(printed.loc["gtsrb", "ig_norm"]) == [74.81, 75.55, 97.02, 75.24]
    assert list(printed.loc["flower17", "standard"]) == [38.22, 56.43, 93.91, 0.0]
    assert printed.sum().round(2).to_dict() == {
        "test/art-in": 1089.21,
        "test/art-k": 1185.58,
        "test/clean": 1492.75,
        "test/pgd40-8": 693.99,
    }
    assert (main["note"] != "").all()  # beside which net


@pytest.mark.parametrize(
    ("change", "score", "value"),
    [
        ({}, "test/art-in", 92.90),
        ({}, "test/art-k", 91.76),
        ({}, "test/clean", 89.84),
        ({}, "test/pgd40-8", 37.58),
        ({"measure.step": "0.0"}, "test/pgd40-8", None),  # 2.5 * eps / steps is another step
        ({}, "test/rar-in", None),
        ({}, "test/strong-in", None),
        ({}, "test/fast-in", None),  # an approximation stands beside no published figure
        ({}, "test/art-gradient-in", None),
        ({"attribution.k": "50"}, "test/art-in", None),
        ({"attribution.steps": "5"}, "test/art-in", None),
        ({"attribution.k": None}, "test/art-in", None),
        ({"attribution.k": "None"}, "test/art-in", None),
        ({"attribution.eps": "0.0156862745"}, "test/art-k", None),
        ({"attribution.eps": None}, "test/art-k", None),
        ({"attribution.k": None, "attribution.eps": None}, "test/clean", 89.84),
        ({"data.limit": "500"}, "test/clean", None),
        ({"method": "standard"}, "test/clean", 95.26),
        ({"method": "standard"}, "test/pgd40-8", 0.0),
        ({"method": "pgd"}, "test/clean", None),
        ({"method": "pgd", "method.steps": "7"}, "test/clean", None),
        ({"method": "pgd", "method.steps": "10"}, "test/clean", 87.32),
        ({"method": "pgd", "method.steps": "10"}, "test/art-in", 69.00),
        ({"method": "pgd", "method.steps": "10", "data": "svhn"}, "test/art-in", None),
        ({"method": "pgd", "method.steps": "7", "data": "svhn"}, "test/art-in", 39.67),
        ({"method": "ig_sum_norm", "data": "gtsrb"}, "test/art-k", 76.84),
        ({"method": "ig_sum_norm"}, "test/art-k", None),
        ({"data": "flower17"}, "test/art-in", None),
        ({"data": "flower17", "attribution.k": "1000"}, "test/art-in", 79.84),
    ],
)
def test_attributions_meet_only_figures_of_the_same_protocol(change, score, value):
    params = {path: text for path, text in (ART | change).items() if text is not None}
    found = published.lookup(params, score)
    assert (found and found["value"]) == value


def test_ours_beside_the_net_of_theirs():
    about = {f"param:{path}": value for path, value in ART.items()}
    there = tables.published_figures(leaderboard(attributed("art", {"art-in": 0.9, "art-k": 0.9}, **about)))
    assert [e.text for e in there.rows[1]][:6] == ["art", "IN (ART)", "90.0 ± 2.5", "92.9", "−2.9", "no"]
    assert there.rows[1][-1].text.startswith("on WRN-28-10") and there.columns[-1].label == "Note"
    assert "eps and k; steps, interpolation points and images may differ" in there.remark


def test_ours_beside_theirs():
    about = {f"param:{path}": value for path, value in CIFAR.items()}
    rows = [row | about | {"test/pgd5-1": v} for row, v in zip(PGD, (0.34, 0.35, 0.36), strict=True)]
    theirs = leaderboard(STANDARD, rows).rows[0].figure("test/pgd5-1").published
    assert theirs.value == pytest.approx(0.3429)
    assert theirs.difference == pytest.approx(0.0071)
    assert theirs.covered is True
    entries = tables.published_figures(leaderboard(STANDARD, rows)).rows[0]
    assert [e.text for e in entries] == ["pgd", "PGD-5 1/255", "35.0 ± 2.5", "34.29", "+0.7", "yes"]


# ---- files


class Page(html.parser.HTMLParser):
    """Collects tags; complains about a table row that does not fit its header."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "br", "wbr"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def page(runs, folder):
    """The text of their HTML page."""
    return write(runs, folder, "x")[3].read_text()


def test_files_are_the_same_for_the_same_runs(tmp_path):
    first = write(family(), tmp_path / "a", "sat-digits")
    again = write(family(), tmp_path / "b", "sat-digits")
    assert [f.name for f in first] == [f"sat-digits.{kind}" for kind in ("md", "csv", "tex", "html")]
    assert [f.read_bytes() for f in first] == [f.read_bytes() for f in again]


def test_the_csv_keeps_full_precision(tmp_path):
    _, file, *_ = write(family(), tmp_path, "x")
    rows = list(csv.DictReader(file.read_text().splitlines()))
    assert [row["cell"] for row in rows] == ["pgd", "sat, box", "standard", "trades"]
    assert float(rows[0]["half:test/robust"]) == stats.interval([0.60, 0.62, 0.64])[1]
    assert rows[3]["not_finished"] == "no seed run yet; trials: 1 complete"


def test_the_columns_of_the_csv_keep_their_names_and_order():
    """A setting of another cell only comes where the space's first cell with it has it: after that one's doubts."""
    waits = child("trades", "search", 0, order=-1)
    searched = {"param:search.optim.lr": "0 to 1", "param:optim.lr": "0.5"}
    many = seeds("sat", [0.3 + i / 100 for i in range(10)], **{"curve:robust": "1:0.2 2:0.1"})
    rows = [waits, *(row | searched for row in STANDARD), *many, *family().to_dict("records")[3:6]]
    images = {row["run_id"]: {"test/robust": np.arange(9) % 2} for row in rows}
    frame = to_frame(build_leaderboard(pd.DataFrame(rows), Files(images)))
    scores = ("test/robust", "test/clean", "test/pgd10-8")
    names = ["group", "cell", "winner", "control", "method", "data", "ranked_by", "not_finished", "seeds"]
    names += [f"{kind}{score}" for score in scores for kind in ("", "half:", "seeds:")]
    names += ["val/robust", "images:val", "images:test"]
    names += [f"trials:{state}" for state in ("complete", "pruned", "failed", "running")]
    names += ["seeds:failed", "touches"]
    names += [f"seconds:{phase}" for phase in ("teacher", "maps", "train", "evaluation", "all")]
    names += ["against", "difference", "half:difference", "set:optim.lr", "domain:optim.lr", "doubts"]
    names += [f"{what}:test/robust" for what in ("low", "high", "iqm", "iqm_low", "iqm_high")]
    names += ["set:method.eps", "domain:method.eps"]
    names += [f"rule:{name}" for name in ["reported", "best_seed", "searched", "fresh", "published", "by_clean"]]
    names += ["best_epoch", "best_epoch_gain"]
    names += [f"paired:{name}" for name in ["difference", "low", "high", "p", "n", "low_both", "high_both"]]
    assert list(frame) == [*names, *(f"best:{score}" for score in scores)]
    assert list(frame["cell"]) == ["pgd", "sat", "standard", "trades"]
    assert list(frame["group"].isna()) == list(frame["against"].isna()) == [False, False, False, True]


def test_the_page_is_sound_and_needs_nothing_else(tmp_path):
    text = page(family(), tmp_path)
    parsed = Page(text)
    assert parsed.open == []
    names = {tag for tag, _ in parsed.tags}
    assert not names & {"link", "img", "iframe"} and "http" not in text.replace("http-equiv", "")
    assert all("src" not in attrs for _, attrs in parsed.tags)
    heads = [attrs for tag, attrs in parsed.tags if tag == "th"]
    assert {h["scope"] for h in heads} == {"col", "row"}
    assert [h["aria-sort"] for h in heads if "aria-sort" in h] == ["descending"]
    count = [tag for tag, _ in parsed.tags].count
    assert count("caption") == count("table") == 9
    curves = [attrs["aria-label"] for tag, attrs in parsed.tags if "curve" in attrs.get("class", "").split()]
    assert curves[0] == "pgd: 90 % clean, 62 % at 8/255"
    ids = [attrs["id"] for _, attrs in parsed.tags if "id" in attrs]
    assert len(ids) == len(set(ids))


def test_text_from_outside_is_escaped(tmp_path):
    evil = '<script>alert("1")</script>|`*x*`'
    rows = [row | {"cell": evil} for row in PGD] + STANDARD
    rows += [child(evil, "search", 9, "failed", reason=f"{evil}\nsecond line")]
    md, _, tex, html = (f.read_text() for f in write(pd.DataFrame(rows), tmp_path, "<b>x</b>/../y"))
    assert "<script>alert" not in html and "&lt;script&gt;alert" in html and "<b>x</b>" not in html
    assert html.count("<script") == 1 and "<script" not in tex
    assert "<script" not in md and "second line" in md
    for lines in (block.splitlines() for block in md.split("\n\n") if block.startswith("| ")):
        assert len({line.replace(r"\|", "").count("|") for line in lines}) == 1  # no bar too many
    stems = {f.name.rpartition(".")[0] for f in tmp_path.iterdir()}
    assert len(stems) == 1 and stems.pop().startswith("b-x-b-..-y-")  # and four digits of its own


def test_the_guide_says_what_the_numbers_are():
    runs = family()
    said = dict(reading_guide.reading(runs, build_leaderboard(runs)))
    assert "10 steps of projected gradient descent" in said["Scores"] and "eps 8 in 255ths" in said["Scores"]
    assert "step size 2.5 · eps / steps" in said["Scores"]
    assert (
        "Over 3 seeds" in said["Mean ± interval"] and "which alone gives the first row ± 3.9" in said["Mean ± interval"]
    )
    assert "highest val/robust on 288 validation images" in said["Selection"]
    assert "on 360 images" in said["Test"] and "9 test evaluations in all, one each" in said["Test"]
    runs.loc[runs["cell"] == "pgd", "test_touches"] = 2.0
    assert "look into the difference" in dict(reading_guide.reading(runs, build_leaderboard(runs)))["Test"]


def test_mixed_settings_are_called_out():
    searched = {"param:search.optim.lr": "0 to 1"}
    rows = [row | searched | {"param:optim.lr": f"0.{row['number']}"} for row in PGD]
    runs = pd.DataFrame(STANDARD + rows)
    assert "pgd" in dict(reading_guide.reading(runs, build_leaderboard(runs)))["Warning"]


def test_fgsm_checks_pgd_and_is_no_column_of_its_own():
    rows = [row | {"test/fgsm-8": 0.4} for row in PGD]
    table = leaderboard(STANDARD, rows)
    assert table.rows[0].figure("test/fgsm-8").mean == pytest.approx(0.4)
    assert "test/fgsm-8" not in table.shown
    (doubt,) = findings.warnings(table)
    assert doubt.startswith("FGSM's single step breaks more images than PGD-10 8/255 in: pgd.")
    assert findings.warnings(leaderboard(STANDARD, [row | {"test/fgsm-8": 0.7} for row in PGD])) == []


def test_text_is_narrow_enough():
    many = {f"test/pgd10-{e}": 0.5 for e in range(1, 12)}
    rows = [row | many | {"cell": "a cell with a name that is much longer than any should be"} for row in PGD]
    lines = terminal.text(leaderboard(STANDARD, rows)).splitlines()
    assert max(map(len, lines)) <= 110
    assert any(line.startswith("a cell with a name that is much longer … ") for line in lines)


def test_nowhere_to_write_is_a_mistake(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        write(family(), tmp_path / "file", "x")


# ---- MLflow


@pytest.fixture(scope="module")
def store(tmp_path_factory, empty_store):
    """A store as the tracker leaves it: two sweeps of an experiment, and one without seed runs."""
    import logging
    import os
    import warnings

    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    folder = tmp_path_factory.mktemp("mlflow")
    shutil.copy(empty_store, folder / "mlflow.db")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param

        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.ERROR)
        client = MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow.db")
        clock = iter(range(10**12, 2 * 10**12, 1000))

        def run(experiment, name, tags, params=(), metrics=()):
            made = client.create_run(experiment, next(clock), tags, name).info.run_id
            params = [Param(*pair) for pair in dict(params).items()]
            metrics = [Metric(k, v, 0, 0) for k, v in dict(metrics).items()]
            client.log_batch(made, metrics=metrics, params=params)
            return made

        def study(experiment, cell, order, sweep):
            tags = {"role": "study", "study": f"{sweep}/{cell}", "sweep": sweep, "cell": cell}
            tags |= {"order": str(order), "goal": "val/robust", "control": str(cell == "standard").lower()}
            searched = {"search.method.eps": "4/255, 8/255"} if cell == "pgd" else {}
            return run(experiment, cell, {f"harness.{k}": v for k, v in tags.items()}, searched)

        def trial(experiment, parent, role, number, state, metrics):
            tags = {"role": role, "state": state, "number": str(number), "key": f"{role}{number}"}
            tags |= {"reason": "Diverged: nan"} if state == "failed" else {}
            tags = {"mlflow.parentRunId": parent, **{f"harness.{k}": v for k, v in tags.items()}}
            path = {"method": "pgd", "data": "digits", "method.eps": "0.0313725490"}
            run(experiment, f"{role} {number}", tags, path, metrics)

        digits = client.create_experiment("sat-digits", artifact_location=str(folder / "artifacts"))
        for sweep, robust in (("old", 0.9), ("new", 0.6)):
            for order, cell in enumerate(("standard", "pgd", "trades")):
                parent = study(digits, cell, order, sweep)
                if cell == "trades":
                    continue
                trial(digits, parent, "search", 0, "complete", {"val/robust": robust, "train/ce": 0.1})
                trial(digits, parent, "search", 1, "failed", {})
                for number in (1, 2):
                    reached = robust * (cell == "pgd") + 0.01 * number
                    found = {"test/robust": reached, "test/clean": 0.9, "test_touches": 1.0}
                    trial(digits, parent, "seed", number, "complete", found)
        shapes = client.create_experiment("sat-shapes", artifact_location=str(folder / "artifacts"))
        parent = study(shapes, "pgd", 0, "new")
        trial(shapes, parent, "search", 0, "complete", {"val/robust": 0.5})
    return f"sqlite:///{folder}/mlflow.db"


def test_the_newest_sweep_is_read_as_one_tidy_table(store):
    runs = read(store, "sat-digits")
    assert set(runs["sweep"]) == {"new"} and len(runs) == 2 * 4 + 1
    assert list(runs["cell"].unique()) == ["standard", "pgd", "trades"]
    assert list(runs.columns[:7]) == ["run_id", "sweep", "study", "cell", "order", "control", "goal"]
    row = runs[(runs["cell"] == "pgd") & (runs["role"] == "seed")].iloc[0]
    assert row["param:method.eps"] == "0.0313725490" and row["param:search.method.eps"] == "4/255, 8/255"
    assert row["test/robust"] == pytest.approx(0.61) and row["number"] == 1 and not row["control"]
    assert row["started"].year == 2001
    assert list(runs.loc[runs["cell"] == "trades", ["role", "state"]].iloc[0]) == ["study", ""]
    assert runs.loc[runs["state"] == "failed", "reason"].unique() == ["Diverged: nan"]


def test_a_sweep_can_be_named(store):
    assert read(store, "sat-digits", "old")["test/robust"].max() == pytest.approx(0.92)
    with pytest.raises(UserError, match="'odl' is not known; did you mean 'old'"):
        read(store, "sat-digits", "odl")


def test_the_command_writes_what_is_finished(store, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["--tracking-uri", store]) == 0
    said = capsys.readouterr().out
    assert "pgd is best: 61.5 ± 6.4 % robust, 60.0 ± 3.0 points above standard." in said
    assert "sat-shapes: nothing to report" in said and "not finished: trades: no trial yet" in said
    there = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file())
    files = [f"runs/reports/papers.{kind}" for kind in ("html", "md", "tex")]
    assert there == [*files, *(f"runs/reports/sat-digits.{kind}" for kind in ("csv", "html", "md", "tex"))]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--experiment", "sat-digit"], "experiment 'sat-digit' is not known; did you mean 'sat-digits'?"),
        (["--experiment", "sat-shapes"], "'sat-shapes' has no finished seed run yet; its trials: 1 complete"),
        (["exprot", "--sweep"], "command 'exprot' is not known; did you mean 'export'?"),
        (["--sweep", "new"], "--sweep needs exactly one --experiment"),
        (["--tracking-uri", "sqlite:///no/such.db"], "there is no MLflow database at 'no/such.db'"),
        (["--tracking-uri", "runs/mlflow.db"], "did you mean 'sqlite:///runs/mlflow.db'?"),
        (["--tracking-uri", "http://127.0.0.1:9"], "no MLflow server answers at 'http://127.0.0.1:9'"),
        (["--tracking-uri", "http://me:secret@127.0.0.1:9"], "server answers at 'http://me:***@127.0.0.1:9'"),
    ],
)
def test_mistakes_are_one_line_and_status_2(store, tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.chdir(tmp_path)
    words = words if {"--tracking-uri", "exprot"} & {*words} else ["--tracking-uri", store, *words]
    assert exit_status(lambda: main(words)) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and "secret" not in error
    assert not list(tmp_path.iterdir())  # no empty database, no folder


def test_a_file_that_is_no_store_stays_as_it_is(tmp_path):
    file = tmp_path / "other.db"
    for content in (b"", b"no database at all"):
        file.write_bytes(content)
        with pytest.raises(UserError, match="is not an MLflow database"):
            experiments(f"sqlite:///{file}")
        assert file.read_bytes() == content


def test_neither_torch_nor_ray_is_imported(store, tmp_path):
    code = (
        "import sys; from reports.__main__ import main; "
        f"main(['--tracking-uri', {store!r}, '--out', {str(tmp_path)!r}]); "
        "sys.exit(', '.join({'torch', 'ray', 'matplotlib'} & set(sys.modules)) or None)"
    )
    done = finished([sys.executable, "-c", code])
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


# Checks


def test_what_checks_doubt_stands_in_the_guide():
    said = "zero for 40.0% of the images: attacks cannot succeed"
    tags = {"check:gradients": f"doubt: {said}", "check:reach": "passed: 2.5 times eps"}
    rows = seeds("standard", [0.2, 0.21, 0.22], **{"check:gradients": "passed: fine"})
    doubted = seeds("pgd", [0.5, 0.52, 0.54])
    doubted = [row | (tags if i else {}) for i, row in enumerate(doubted)]
    table, runs = leaderboard(rows, doubted), pd.DataFrame([*rows, *doubted])
    found = [text for term, text in reading_guide.reading(runs, table) if term == "Warning"]
    assert found == [f"Check gradients, 2 of 3 seed runs of pgd: {said}."]


@pytest.mark.parametrize(
    ("score", "label", "minor"),
    [
        ("test/corrupted", "Corrupted", False),
        ("test/corrupted_art", "Corrupted (15 of ART)", False),
        ("test/gaussian_noise-3", "gaussian noise 3", True),
        ("test/fog", "fog", True),
        ("test/aa-8", "AutoAttack 8/255", False),
        ("test/aa-apgd-ce-8", "AA apgd-ce 8/255", True),
        ("test/worst-8", "Worst case 8/255", False),
        ("test/l2-pgd40-128", "PGD-40 L2 128/255", False),
        ("test/gtknown-grad", "GT-known Loc (gradient)", False),
        ("test/top1loc-cam-oracle", "Top-1 Loc (CAM, oracle)", True),
        ("test/maxboxacc-cam", "MaxBoxAccV2 (CAM)", True),
        ("test/iou", "IoU", False),
        ("test/dice-otsu", "Dice (otsu)", True),
        ("test/cw100_l2", "cw100, l2", True),
    ],
)
def test_names_of_what_suites_measure(score, label, minor):
    assert score_names.label(score) == label and score_names.is_minor(score) is minor


def test_the_corruptions_are_those_that_are_measured():
    from harness.data.corruptions import registry

    assert {name for name in METRICS if score_names.corruption(name)} == set(registry.CORRUPTIONS)


def test_a_dash_says_whether_a_score_was_not_measured():
    """Or measured, but of no image; and a figure that it is of an older version of measuring."""
    new = {"test/aa-8": 0.4, "test_n/strong-in": 9, "test/strong-in": 0.3}
    none = {"test_n/strong-in": 0, "test/strong-in": math.nan}
    pgd = [row | new | {"test_version/aa-8": 2.0, "test_version/pgd10-8": 2.0} for row in PGD]
    table = tables.ranking(leaderboard([row | none for row in STANDARD], pgd))
    shown = {row[0].text: {c.label: e for c, e in zip(table.columns, row, strict=True)} for row in table.rows}
    labels = [number_format.capitalised(score_names.label(f"test/{name}")) for name in ("aa-8", "strong-in", "pgd10-8")]
    standard = [shown["standard"][label] for label in labels]
    assert [entry.mark for entry in standard] == ["not measured", "", "measured by version 1"]
    assert [entry.text == number_format.NONE for entry in standard] == [True, True, False]
    assert {entry.mark for entry in shown["pgd"].values()} == {""}


def test_a_version_is_that_of_the_runs_that_have_the_score():
    """Not of a seed that lacks it; and a control measured on no image was measured."""
    pgd = [row | {"test/aa-8": 0.4, "test_version/aa-8": 2.0} for row in PGD]
    del pgd[0]["test/aa-8"], pgd[0]["test_version/aa-8"]
    control = {"test/random-in": math.nan, "test_n/random-in": 0, "test/strong-in": math.nan, "test_n/strong-in": 0}
    standard = [row | {"test/random-in": 0.9, "test_n/random-in": 5, "test/strong-in": 0.2} for row in STANDARD]
    made = leaderboard(standard, [row | control for row in pgd])
    row = next(row for row in made.rows if row.name == "pgd")
    assert row.figure("test/aa-8").versions == (2,) and row.figure("test/pgd10-8").versions == (1,)
    shown = {r[0].text: [entry.mark for entry in r] for r in tables.ranking(made).rows}
    assert f"{len(PGD) - 1} seeds" in shown["pgd"] and "not measured" in shown["standard"]
    attributions = {r[0].text: [entry.mark for entry in r] for r in tables.scores_of_kind(made, "attribution").rows}
    assert "not measured" not in attributions["pgd"]
    frame = to_frame(made).set_index("cell")
    assert frame.loc["pgd", "version:test/aa-8"] == 2 and math.isnan(frame.loc["standard", "version:test/aa-8"])


def test_scores_of_different_versions_are_warned_of():
    newer = [row | {"test_version/pgd10-8": 2.0} for row in PGD]
    (warning,) = findings.warnings(leaderboard(STANDARD, newer))
    assert warning.startswith("Measured by an older version than elsewhere, PGD-10 8/255 in: standard. Run the same")
    mixed = [dict(PGD[0]), *newer[1:]]
    (warning,) = findings.warnings(leaderboard([row | {"test_version/pgd10-8": 2.0} for row in STANDARD], mixed))
    assert "PGD-10 8/255 in: pgd. " in warning
    assert findings.warnings(leaderboard(STANDARD, PGD)) == []
