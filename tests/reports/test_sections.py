"""The parts of a report: which there are, what the tables say, which runs may share a column."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from rows import PGD, STANDARD, attributed, child, family, row_names, seeds

from harness.config.search_domains import domain_as_json, integer, log, ordered
from harness.errors import UserError
from reports.analyse import counted_runs
from reports.analyse.leaderboard import build_leaderboard
from reports.present import figures, reading_guide, reliability, sections, tables
from reports.read.artifacts import Files
from reports.read.runs import together
from reports.write.csv import to_frame


def searched(cell, goals, **more):
    """Complete search trials, the first one the published setting."""
    own = {"space:method.eps": '{"choices": [0.1, 0.2, 0.3]}'} | more
    return [
        child(cell, "search", i, **{"val/robust": g, "val/clean": 1 - g, "param:method.eps": str((i + 1) / 10)}, **own)
        for i, g in enumerate(goals)
    ]


def built(runs, files=None):
    files = files or Files()
    return {part.key: part for part in sections.all_sections(runs, build_leaderboard(runs, files), files)}


def texts(table):
    return {row[0].text: [entry.text for entry in row[1:]] for row in table.rows}


def test_only_parts_with_something_to_show_are_there():
    there = built(family())
    assert list(there) == ["leaderboard", "robustness", "trust", "tuning", "training", "cost", "provenance"]
    assert all(part.items for part in there.values())


def test_a_sweep_without_figures_has_neither_ranking_nor_plots():
    there = built(pd.DataFrame(searched("pgd", [0.5, 0.6])))
    assert [item.key for item in there["leaderboard"].items] == ["unfinished"]
    assert "robustness" not in there


def test_each_question_has_a_table_of_its_own():
    found = {"art-in": 0.9, "art-k": 0.8, "random-in": 0.99, "fog": 0.5, "fog-3": 0.4, "corrupted": 0.6, "iou": 0.3}
    runs = pd.DataFrame([*STANDARD, *attributed("pgd", found)])
    leaderboard = build_leaderboard(runs)
    questions = ("attribution", "corruption", "segmentation")
    attribution, corruption, segmented = (tables.scores_of_kind(leaderboard, question) for question in questions)
    assert [c.label for c in attribution.columns] == ["Cell", "IN (ART)", "K (ART)", "IN (random)"]
    assert [c.label for c in corruption.columns] == ["Cell", "Corrupted", "Fog"]
    assert texts(segmented) == {"pgd": ["30.0 ± 2.5"], "standard": ["–"]}
    labels = [c.label for c in tables.ranking(leaderboard).columns]
    assert {"IN (ART)", "Corrupted", "IoU", "PGD-10 8/255"} <= set(labels)
    many = {f"test/pgd10-{eps}": 0.5 for eps in range(10, 20)}
    full = build_leaderboard(pd.DataFrame([row | many for row in runs.to_dict("records")]))
    assert not {"IN (ART)", "Corrupted", "IoU"} & {c.label for c in tables.ranking(full).columns}


def beside_random(name, rank, depends=1.0, **more):
    """The metrics of a run of which that map was compared with those of nets with random weights."""
    numbers = {"rank": rank, "ssim": 0.2, "rank_random": 0.1, "ssim_random": 0.1, "depends": depends, **more}
    return {f"check/depends_on_weights/{name}/{what}": number for what, number in numbers.items()}


def test_whether_maps_depend_on_the_weights_stands_beside_their_scores():
    found = {"art-in": 0.9, "strong-gradient-in": 0.8, "strong-cam-in": 0.5}
    pgd = attributed(
        "pgd", found, **beside_random("integrated_gradients", 0.93, 0.0), **beside_random("gradient", 0.04)
    )
    pgd[0] |= beside_random("gradient", -0.02)
    mixed = attributed("sat", found, **beside_random("gradient", -0.002))
    mixed[1] |= beside_random("gradient", 0.8, 0.0)
    leaderboard = build_leaderboard(pd.DataFrame([*STANDARD, *pgd, *mixed]))
    table = tables.scores_of_kind(leaderboard, "attribution")
    assert [c.label for c in table.columns][4:] == ["Depends on weights", "Depends on weights (gradient)"]
    cells = texts(table)
    assert cells["pgd"][-2:] == ["no (0.93)", "yes (0.02)"]  # the mean of −0.02, 0.04 and 0.04
    assert cells["sat"][-2:] == ["–", "no (0.27)"] and cells["standard"][-2:] == ["–", "–"]
    marks = {row[0].text: row[-1].mark for row in table.rows}
    assert marks == {"pgd": "", "sat": "in 1 of 3 seeds", "standard": ""}
    assert table.remark.startswith("Depends on weights: ")
    said = dict(reading_guide.reading(pd.DataFrame([*STANDARD, *pgd]), leaderboard))["Attributions"]
    assert "Adebayo et al., 2018" in said
    row = to_frame(leaderboard).set_index("cell").loc["pgd"]
    assert row["random_weights:gradient:rank"] == pytest.approx(0.02) and row["random_weights:gradient:depends"] == 3
    of_ig = {what: row[f"random_weights:integrated_gradients:{what}"] for what in ("rank", "ssim", "ssim_random")}
    assert of_ig == pytest.approx({"rank": 0.93, "ssim": 0.2, "ssim_random": 0.1})


def test_without_that_check_there_is_no_such_column():
    leaderboard = build_leaderboard(pd.DataFrame([*STANDARD, *attributed("pgd", {"art-in": 0.9})]))
    table = tables.scores_of_kind(leaderboard, "attribution")
    assert [c.label for c in table.columns] == ["Cell", "IN (ART)"] and not table.remark
    guide = dict(reading_guide.reading(pd.DataFrame(STANDARD), leaderboard))
    assert "Adebayo" not in str(guide)


def test_the_best_of_a_column_is_bold_only_where_something_is_worse():
    ranking = tables.ranking(build_leaderboard(pd.DataFrame(STANDARD + PGD)))
    column = {row[0].text: row for row in ranking.rows}
    robust, clean = 1, [c.label for c in ranking.columns].index("Clean")
    assert column["pgd"][robust].best and not column["standard"][robust].best
    assert not column["pgd"][clean].best and not column["standard"][clean].best  # equal: nothing stands out


def test_a_mean_over_fewer_seeds_says_so():
    rows = [row | ({"test/art-in": 0.7} if i else {}) for i, row in enumerate(PGD)]
    ranking = tables.ranking(build_leaderboard(pd.DataFrame(rows)))
    column = [c.label for c in ranking.columns].index("IN (ART)")
    assert ranking.rows[0][column].mark == "2 seeds" and ranking.rows[0][1].mark == ""


def test_what_several_winners_cost_is_counted_once():
    both = [
        row | {"winners": "a,b", "winner": key, "key": f"{key}{i}", "run_id": f"{key}{i}", "test/robust": 0.5 + i / 100}
        for key in "ab"
        for i, row in enumerate(PGD)
    ]
    runs = pd.DataFrame([*both, child("pgd", "search", 0, **{"seconds/train": 7.0})])
    leaderboard = build_leaderboard(runs)
    costs = [row.cost for row in leaderboard.rows]
    assert [cost.touches for cost in costs] == [3, 3] and sum(cost.seconds.all_runs for cost in costs) == 7 + 6 * 3


def test_the_same_nets_in_two_rows_are_called_out():
    again = [row | {"cell": "b", "run_id": f"b{row['run_id']}"} for row in PGD]
    runs = pd.DataFrame([*STANDARD, *PGD, *again])
    said = [text for term, text in reading_guide.reading(runs, build_leaderboard(runs)) if term == "Warning"]
    assert said == ["The same trained nets are behind pgd and b."]
    assert "6 test evaluations in all, one each" in dict(reading_guide.reading(runs, build_leaderboard(runs)))["Test"]


def test_the_step_is_that_of_the_suite():
    rows = [
        row | {"param:measure.suites": "('paper-sat',)", "param:measure.step": "0", "test/pgd5-1": 0.5} for row in PGD
    ]
    runs = pd.DataFrame(rows).drop(columns="test/pgd10-8")
    assert "step size 2/255." in dict(reading_guide.reading(runs, build_leaderboard(runs)))["Scores"]


def test_doubts_stand_beside_the_name():
    doubted = [row | {"check:gradients": "doubt: zero", "check:reach": "passed: fine"} for row in PGD]
    leaderboard = build_leaderboard(pd.DataFrame(STANDARD + doubted))
    assert [row[0].mark for row in tables.ranking(leaderboard).rows] == ["1 failed check", "control"]
    said = texts(reliability.cautions(leaderboard))
    assert said["pgd"][0] == "gradients" and said["standard"][0] == "–"  # nothing was asked of it


def test_other_rules_of_choosing():
    runs = pd.DataFrame([*STANDARD, *searched("pgd", [0.4, 0.7, 0.3])])
    repeated = [row | {"winner": "pgdsearch1", "val/robust": 0.6, "winners": "pgdsearch1"} for row in PGD]
    runs = pd.concat([runs, pd.DataFrame(repeated)], ignore_index=True)
    table = reliability.rules(build_leaderboard(runs))
    assert [c.label for c in table.columns][1:] == [
        *("Reported", "Best seed", "Winner in search", "Winner's seed runs", "Published setting", "Selected by clean")
    ]
    assert texts(table)["pgd"] == ["62.0", "64.0", "70.0", "60.0", "40.0", "30.0"]


def test_images_are_compared_with_the_first_row_and_corrected():
    rng = np.random.default_rng(0)
    right = {"pgd": 0.9, "standard": 0.2, "trades": 0.88}
    runs = pd.DataFrame([*STANDARD, *PGD, *seeds("trades", [0.59, 0.61, 0.60])])
    images = {r: {"test/robust": rng.random(500) < right[r.split("-")[0]]} for r in runs["run_id"]}
    leaderboard = build_leaderboard(runs, Files(images))
    table = reliability.image_by_image(leaderboard)
    said = texts(table)
    assert list(said) == ["trades", "standard"] and table.caption == "Image by image against pgd"
    assert said["standard"][2] == "< 0.001" and said["standard"][4] == "500"
    assert float(said["standard"][0].replace("−", "-")) == pytest.approx(-70, abs=4)
    (trades,) = (row.paired for row in leaderboard.rows if row.name == "trades")
    assert trades.low <= trades.difference <= trades.high


def test_without_numbers_per_image_there_is_no_such_table():
    assert reliability.image_by_image(build_leaderboard(family())).rows == []
    some = Files({"pgd-seed-1": {"test/robust": np.ones(4)}})  # of one seed alone
    assert reliability.image_by_image(build_leaderboard(family(), some)).rows == []


def test_every_seed_is_shown():
    said = texts(reliability.over_seeds(build_leaderboard(family()), family()))
    assert said["pgd"][-1] == "60.0, 62.0, 64.0" and said["pgd"][2:4] == ["60.0", "64.0"]


def test_provenance_counts_runs_that_differ():
    rows = [row | {"tag:git": "abc" if i else "def", "tag:package.torch": "2.13"} for i, row in enumerate(PGD)]
    said = texts(reliability.provenance(pd.DataFrame(rows)))
    assert said["Code"] == ["abc (2 runs); def (1 runs)"] and said["torch"] == ["2.13"]


def test_a_winner_at_the_edge_is_called_out():
    runs = pd.DataFrame(searched("pgd", [0.4, 0.5, 0.7]) + [row | {"param:method.eps": "0.3"} for row in PGD])
    runs["space:method.eps"] = '{"choices": [0.1, 0.2, 0.3]}'
    table = sections.edges(runs)
    assert texts(table) == {"pgd": ["method.eps", "76.5/255", "high end", "25.5/255, 51/255, 76.5/255"]}


@pytest.mark.parametrize(
    ("domain", "path", "shown"),
    [
        (ordered(0.1, 0.2, 0.3), "method.eps", "25.5/255, 51/255, 76.5/255"),
        (log(0.1, 0.3), "method.eps", "25.5/255 to 76.5/255, log"),
        (integer(1, 3), "epochs", "1 to 3"),
    ],
)
def test_every_kind_of_domain_is_shown_and_drawn(domain, path, shown):
    values = ("0.1", "0.2", "0.3") if path == "method.eps" else ("1", "2", "3")
    rows = [child("pgd", "search", i, **{"val/robust": 0.4 + i / 10, f"param:{path}": v}) for i, v in enumerate(values)]
    rows += [row | {f"param:{path}": values[2]} for row in PGD]
    runs = pd.DataFrame([row | {f"space:{path}": json.dumps(domain_as_json(domain))} for row in rows])
    assert texts(sections.edges(runs))["pgd"][3] == shown
    (figure,) = figures.hyperparameters(runs, build_leaderboard(runs))
    assert figure.key == f"against-{path}" and len(figure.drawings) == 1


# ---- which runs may stand side by side


@pytest.mark.parametrize(
    ("own", "others", "said"),
    [
        (
            {"param:measure.eps": "(0.1,)"},
            {"param:measure.eps": "(0.1, 0.2)"},
            "measure.eps (0.1,) instead of (0.1, 0.2)",
        ),
        (
            {"param:measure.suites": "('full',)"},
            {"param:measure.suites": "('standard',)"},
            "full instead of none",
        ),
        ({"protocol": "1"}, {"protocol": "2"}, "version of training 1 instead of 2"),
        ({"protocol": None}, {"protocol": "2"}, "version of training not recorded instead of 2"),
        ({"tag:data.test": "aa"}, {"tag:data.test": "bb"}, "checksum of the test images aa instead of bb"),
        ({"param:measure.step": "0.1"}, {"param:measure.step": "0"}, "measure.step 0.1 instead of 0"),
        ({"param:attribution.k": "5"}, {"param:attribution.k": "8"}, "attribution.k 5 instead of 8"),
    ],
)
def test_what_was_measured_otherwise_shares_no_column(own, others, said):
    runs = pd.DataFrame([*(row | others for row in STANDARD + PGD), *(r | own for r in seeds("trades", [0.9, 0.9]))])
    assert set(counted_runs.tested(runs)["cell"]) == {"standard", "pgd"}
    left = counted_runs.failures(runs)
    assert set(left["cell"]) == {"trades"} and left["reason"].str.endswith(said).all()
    leaderboard = build_leaderboard(runs)
    assert row_names(leaderboard) == ["pgd", "standard", "trades"] and leaderboard.rows[2].seeds == 0


def test_the_newest_protocol_counts_however_few_its_runs():
    old = [row | {"protocol": "9"} for row in STANDARD + PGD]
    runs = pd.DataFrame([*old, *(row | {"protocol": "10"} for row in seeds("trades", [0.9]))])
    assert list(counted_runs.tested(runs)["cell"]) == ["trades"]


def test_an_overtaken_winner_does_not_say_how_the_present_one_should_be_measured():
    old = seeds("pgd", [0.1] * 5, **{"winner": "a", "winners": "b", "param:measure.step": "0.1"})
    new = seeds("pgd", [0.6] * 3, **{"winner": "b", "winners": "b", "param:measure.step": "0"})
    runs = pd.DataFrame([*old, *(row | {"key": f"new{row['key']}"} for row in new)])
    assert list(counted_runs.tested(runs)["test/robust"]) == [0.6] * 3
    assert counted_runs.failures(runs).empty


def test_a_setting_that_a_run_does_not_have_touches_none_of_its_scores():
    runs = pd.DataFrame([*STANDARD, *(row | {"param:attribution.k": "8"} for row in PGD)])
    assert set(counted_runs.tested(runs)["cell"]) == {"standard", "pgd"}


def test_a_cell_whose_runs_were_measured_otherwise_says_so():
    runs = pd.DataFrame([*STANDARD, *PGD, *(r | {"protocol": "1"} for r in seeds("trades", [0.9]))])
    leaderboard = build_leaderboard(runs)
    assert leaderboard.rows[2].not_finished.endswith("version of training 1 instead of 2")


# ---- several experiments


def test_experiments_are_joined_and_cells_of_the_same_name_told_apart():
    other = pd.DataFrame([*(row | {"run_id": f"b{row['run_id']}"} for row in STANDARD), *seeds("art", [0.7, 0.71])])
    runs = together({"a": pd.DataFrame(STANDARD + PGD), "b": other})
    leaderboard = build_leaderboard(runs)
    assert row_names(leaderboard) == ["art", "pgd", "a: standard", "b: standard"]
    assert set(to_frame(leaderboard)["against"].dropna()) == {leaderboard.control} == {"a: standard"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"param:data": "shapes"}, "different data sets share no table: 'a' has 'digits', 'b' 'shapes'"),
        (
            {"goal": "val/robust,val/clean"},
            "different goals share no table: 'a' has 'val/robust', 'b' 'val/robust,val/clean'",
        ),
    ],
)
def test_experiments_that_cannot_be_joined(change, said):
    with pytest.raises(UserError, match=said):
        together({"a": pd.DataFrame(PGD), "b": pd.DataFrame([row | change for row in PGD])})


# ---- files of runs


def test_numbers_per_image_come_from_mlflow(tmp_path, fresh):
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.create_experiment("x", artifact_location=str(tmp_path / "artifacts"))
    run = client.create_run(experiment)
    np.savez(tmp_path / "test.npz", **{"test/robust": np.array([True, False])})
    client.log_artifact(run.info.run_id, str(tmp_path / "test.npz"))
    (tmp_path / "gallery.npz").write_bytes(b"no archive")
    client.log_artifact(run.info.run_id, str(tmp_path / "gallery.npz"))
    own = {"run_id": run.info.run_id}
    place = tmp_path / "artifacts" / run.info.run_id / "artifacts"
    (tmp_path / "artifacts" / "art e").mkdir()
    shutil.copy(tmp_path / "test.npz", tmp_path / "artifacts" / "art e")
    other = (tmp_path / "artifacts" / "art e").as_uri()
    for where in (run.info.artifact_uri, place.as_uri(), None, "/moved/away"):
        runs = pd.DataFrame([PGD[0] | own | {"artifacts": where}, PGD[1] | {"artifacts": other}])
        found = counted_runs.read_files(f"sqlite:///{tmp_path}/mlflow.db", runs)
        assert found.images[run.info.run_id]["test/robust"].tolist() == [True, False]
        assert list(found.images["pgd-seed-2"]) == ["test/robust"] and found.pictures == {}


# ---- figures


def test_corruptions_have_a_heat_map_per_cell_that_was_asked():
    known = {f"test/fog-{s}": s / 10 for s in range(1, 6)}
    figure = figures.corruptions(build_leaderboard(pd.DataFrame([*STANDARD, *(row | known for row in PGD)])))
    assert [drawing.name for drawing in figure.drawings] == ["pgd"]
    assert "fog" in figure.drawings[0].svg and "50" in figure.drawings[0].svg


def test_pruned_trials_are_drawn_at_their_last_value_and_enter_no_importance():
    pruned = child("pgd", "search", 7, "pruned", **{"curve/robust": 0.1, "param:method.eps": "0.2"})
    pruned["space:method.eps"] = '{"choices": [0.1, 0.2, 0.3]}'
    runs = pd.DataFrame([*searched("pgd", [0.4, 0.5, 0.6]), pruned, *PGD])
    (figure,) = figures.hyperparameters(runs, build_leaderboard(runs))
    (drawing,) = figure.drawings
    assert figure.key == "against-method.eps" and drawing.svg.count('class="pruned"') == 1


def test_learning_curves_tell_seeds_from_trials():
    curved = [row | {"curve:robust": "1:0.2 2:0.7 3:0.6"} for row in PGD]
    runs = pd.DataFrame([*STANDARD, *curved, child("pgd", "search", 0, **{"curve:robust": "1:0.1 2:0.2"})])
    (drawing,) = figures.learning(runs, build_leaderboard(runs)).drawings
    assert drawing.name == "pgd" and drawing.svg.count("seed") >= 3


def test_fronts_set_clean_accuracy_and_time_against_the_goal():
    names = [d.name for d in figures.fronts(build_leaderboard(family())).drawings]
    assert names == ["Robust accuracy against clean", "Robust accuracy against training time"]
