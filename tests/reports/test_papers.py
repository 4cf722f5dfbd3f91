"""The papers' tables: every printed number, its place, and which runs may stand there."""

import math
from dataclasses import astuple

import pandas as pd
import pytest
import torch

import methods
from harness.config.trial import build, has_setting
from harness.evaluation import suites
from harness.evaluation.measurements import EvaluationContext
from harness.explain import localization
from harness.explain.maps import MAPS
from harness.models import nets
from reports.analyse import published
from reports.analyse.rows import Cost, Figure, Leaderboard, Published, Row, Seconds, Trials
from reports.present import number_format, papers

SUMS = {  # of the printed columns, in their order
    "Tiny-ImageNet": [137.77, 100.73, 74.11],
    "Flower-17": [648.94, 596.39, 552.21],
    "CIFAR-100": [322.32, 127.66, 64.31, 33.84],
    "ablation of alpha^10": [582.50, 261.44, 130.21],  # 36, 16.07 and 7.47 of the older script thrice
    "ablation of eps0": [244.39, 85.36, 38.71],
    "main table": [1089.21, 1185.58, 1492.75, 693.99],
    "CIFAR-10-C": [
        *(217.92, 232.16, 210.02, 252.71, 216.81, 241.90, 246.79, 252.20),
        *(231.45, 269.76, 202.18, 250.84, 247.32, 253.21, 234.70),
    ],
    "localisation on CUB-200-2011": [464.73, 353.62, 402.32, 371.95, 607.03],
}
ROWS = {  # whole rows, as printed
    ("Tiny-ImageNet", "SAT"): "9.79 2.46 0.77",
    ("Tiny-ImageNet", "TRADES"): "18.45 16.76 11.09",
    ("Flower-17", "PGD-SAT"): "78.67 75.73 75.00",
    ("Flower-17", "TRADES + Uniform-Noise"): "76.47 74.26 74.0",
    ("CIFAR-100", "Original"): "25.83 7.76 3.35 1.94",
    ("CIFAR-100", "SAT, Resnet-10 - Std. - I.Grad"): "36.2 5.43 7.28 3.37",
    ("CIFAR-100", "SAT, Resnet-10 - Adv. - S.Grad"): "40.01 21.2 10.96 4.85",
    ("ablation of alpha^10", "Adv. teacher, alpha^10 = 0.2"): "28.69 9.62 4.49",
    ("ablation of alpha^10", "sparse teacher, alpha^10 = 0.6"): "39.06 22.46 13.29",
    ("ablation of alpha^10", "Std. teacher, alpha^10 = 1.0"): "33.15 13.70 6.01",
    ("ablation of alpha^10", "Std. teacher, alpha^10 = 1.0 (older script)"): "36 16.07 7.47",
    ("ablation of eps0", "Std. teacher, eps0 = 2/255"): "30.21 12.59 6.69",
    ("ablation of eps0", "Adv. teacher, eps0 = 16/255"): "13.75 2.86 1.01",
    ("main table", "SVHN, PGD-7"): "39.67 55.56 92.84 50.12",
    ("main table", "GTSRB, IG-SUM Norm"): "74.04 76.84 95.68 77.12",
    ("main table", "Flower, ART"): "79.84 84.87 93.21 33.08",
    (
        "CIFAR-10-C",
        "Natural",
    ): "49.16 61.42 59.22 83.55 53.84 79.16 79.18 84.53 91.6 94.37 87.63 84.44 74.12 79.76 65.04",
    ("CIFAR-10-C", "ART"): "85.44 86.41 77.07 86.07 81.70 83.14 85.54 84.99 71.04 89.42 56.69 84.72 87.64 87.89 86.02",
    ("localisation on CUB-200-2011", "ResNet50-SE, ADL (published)"): "– – – 62.29 80.34",
    ("localisation on CUB-200-2011", "ResNet50, PGD-7"): "66.73 47.48 55.24 39.45 70.3",
    ("localisation on CUB-200-2011", "VGG-GAP, ART"): "76.50 57.74 52.88 40.75 74.51",
}
HEADS = {
    "Tiny-ImageNet": "1/255 2/255 3/255",
    "CIFAR-100": "1/255 2/255 3/255 4/255",
    "main table": "IN K Natural PGD-40",
    "CIFAR-10-C": "GN SN IN DB GlB MB ZB S F B C E P J SpN",
}

SAT = {
    "data": "cifar100",
    "data.limit": "0",
    "method": "sat",
    "method.alpha10": "0.6",
    "method.eps": "0.0313725490",
    "method.schedule": "power",
    "method.per": "epoch",
    "maps.saliency": "guided_backprop",
    "maps.teacher": "pgd",
    "measure.suites": "('standard',)",
    "measure.steps": "5",
    "measure.restarts": "1",
    "measure.step": "0.00784313725",
}
ART = {"data": "cifar10", "data.limit": "0", "data.size": "0", "method": "art"}
PGD40 = ART | {path: text for path, text in SAT.items() if path.startswith("measure.")}
PGD10 = ART | {"method": "pgd", "method.steps": "10"}
CUB = {
    "data": "cub",
    "data.size": "256",
    "data.crop": "224",
    "model": "resnet50",
    "method": "art",
    "measure.step": "0.0",
}


COST = Cost(Trials(0, 0, 0, 0), 0, 0, Seconds(*[math.nan] * 5))


def row(cell, params, found, seeds=3):
    """A row of a leaderboard: score -> (mean, half), beside what these parameters meet."""
    figures = {}
    for score, (mean, half) in found.items():
        figure = published.lookup(params, score)
        apart = mean - figure["value"] / 100
        covered = None if math.isnan(half) else abs(apart) <= half
        theirs = Published(figure["id"], figure["value"] / 100, apart, covered, figure["paper"], figure["note"])
        figures[score] = Figure(mean, half, seeds, published=theirs)
    return plain(cell, figures, seeds)


def plain(cell, figures, seeds):
    return Row(cell, cell, 0, False, "", "", COST, figures, seeds)


def board(*rows):
    return Leaderboard(rows, "test/robust", ("test/robust",))


def tables(leaderboards):
    return {table.caption.split(", ")[1]: table for table in papers.tables(leaderboards)}


def lines(table):
    return {line[0].text: line for line in table.rows}


# ---- the figures


def test_every_table_has_its_sums():
    found = tables({})
    assert list(found) == list(SUMS)
    for name, table in found.items():
        theirs = [line[2:] for line in table.rows if line[1].text == "published"]
        sums = [
            math.fsum(float(e.text) for e in column if e.text != number_format.NONE)
            for column in zip(*theirs, strict=True)
        ]
        assert sums == pytest.approx(SUMS[name], abs=1e-6), name


@pytest.mark.parametrize(("table", "label"), ROWS, ids=": ".join)
def test_a_row_is_as_printed(table, label):
    line = lines(tables({})[table])[label]
    assert " ".join(entry.text for entry in line[2:]) == ROWS[table, label]
    assert [e.sort for e in line[2:]] == ["" if t == "–" else float(t) / 100 for t in ROWS[table, label].split()]


def test_the_scores_are_those_that_the_harness_writes():
    subject = EvaluationContext(build({"data": "cifar10"}).measure)
    written = {f"test/{name}" for suite in ("paper-sat", "paper-art") for name in suites.SUITES[suite](subject)}
    seen = {name: torch.rand(2, len(localization.THRESHOLDS)) for name in ("grad", "cam")} | {"right": torch.ones(2)}
    written |= {f"test/{name}" for name in localization.box_scores(seen)} | {"test/art-in", "test/art-k"}
    assert set(published.figures()["score"]) - {""} <= written


def test_settings_and_names_are_those_of_the_harness():
    figures = published.figures()
    assert set(figures["method"]) <= set(methods.names())
    assert set(figures["teacher"]) - {"", "sparse"} <= set(methods.names())  # sparse: nowhere defined
    named = {name for text in figures["saliency"] for name in text.split("|")}
    assert named - {"", "box", "mask"} <= set(MAPS)
    for _, figure in figures.iterrows():
        trial = build({"method": figure["method"], "measure.suites": "paper-art"})
        for setting in figure["settings"].split():
            path, _, value = setting.partition("=")
            assert has_setting(trial, path), setting
            assert path != "model" or value in {*nets.NETS, "resnet50_se"}


def test_a_figure_has_one_place():
    figures = published.figures()
    assert not figures.duplicated(["paper", "table", "row", "column"]).any()
    per_column = figures[figures["score"] != ""].groupby(["paper", "table", "column"])
    assert (per_column[["score", "protocol"]].nunique() == 1).all(axis=None)
    assert (figures["protocol"] != "").all()


# ---- which run meets which


@pytest.mark.parametrize(
    ("params", "score", "value"),
    [
        (ART, "test/fog", 71.04),
        (ART, "test/speckle_noise", 86.02),
        (ART, "test/fog-3", None),  # one severity
        (ART, "test/frost", None),
        (ART | {"data.size": "64"}, "test/fog", None),
        (ART | {"data": "cifar100"}, "test/fog", None),
        (PGD10, "test/impulse_noise", 73.73),
        (PGD10 | {"method.steps": "7"}, "test/impulse_noise", None),
        (CUB, "test/gtknown-grad", 82.65),
        (CUB, "test/top1loc-cam", 46.02),
        (CUB, "test/clean", 77.51),
        (CUB | {"model": "vgg_gap"}, "test/top1loc-cam", 40.75),
        (CUB | {"model": "vgg_gap", "method": "adl"}, "test/gtknown-cam", 69.36),
        (CUB | {"model": "wrn40_2"}, "test/clean", None),  # the paper has two nets: this is neither
        (CUB | {"data.crop": "0"}, "test/gtknown-grad", None),
        (CUB, "test/gtknown-grad-oracle", None),
        (CUB, "test/maxboxacc-grad", None),
        (CUB | {"method": "pgd", "method.steps": "7"}, "test/gtknown-grad", 66.73),
        (CUB | {"method": "pgd", "method.steps": "5"}, "test/gtknown-grad", None),
        (SAT | {"maps.saliency": "guided_backprop_modules"}, "test/pgd5-4", 4.22),
        (SAT | {"method.alpha10": "0.8", "method.schedule": "linear"}, "test/pgd5-2", 14.73),  # not the ablation's
        (SAT | {"method.alpha10": "0.8", "method.per": "iteration"}, "test/pgd5-2", 14.73),
        (SAT | {"method.alpha10": "0.8"}, "test/pgd5-2", 17.71),
        (SAT | {"method.alpha10": "1"}, "test/pgd5-1", 33.15),  # and not 36, of the older script
        (SAT | {"measure.steps": "10"}, "test/pgd5-4", 4.22),  # an attack of `full`: 2.5 * eps / steps is 2/255
        (SAT | {"measure.steps": "10"}, "test/pgd5-3", None),
        (SAT | {"measure.steps": "10", "measure.suites": "('paper-sat',)"}, "test/pgd5-3", 6.84),
        (SAT | {"measure.step": "0.0", "measure.suites": "('standard', 'paper-sat')"}, "test/pgd5-3", 6.84),
        (SAT | {"measure.restarts": "3"}, "test/pgd5-3", None),
        (PGD40 | {"measure.suites": "('paper-art',)"}, "test/pgd40-8", 37.58),
        (PGD40 | {"measure.suites": "('full',)"}, "test/pgd40-8", None),
        (PGD40 | {"measure.steps": "40"}, "test/pgd40-8", 37.58),
    ],
)
def test_only_the_same_protocol_meets(params, score, value):
    figure = published.lookup(params, score)
    assert (figure and figure["value"]) == value


def test_a_data_set_by_its_folders_name():
    tiny = SAT | {"data.size": "32", "method": "trades", "maps.saliency": "", "maps.teacher": ""}
    found = [published.lookup(tiny | {"data": f"tiny-imagenet{end}"}, "test/pgd5-2") for end in ("", "-200", "-20")]
    assert [f and f["value"] for f in found] == [16.76, 16.76, None]


def test_the_id_is_the_figures_line():
    figures = published.figures()
    for params, score in ((SAT, "test/pgd5-1"), (ART, "test/fog"), (CUB, "test/clean")):
        figure = published.lookup(params, score)
        assert figure.pop("id") == figures.index[(figures == pd.Series(figure)).all(axis=1)].item()
    lines = published.FIGURES.read_text().splitlines()[1:]
    figure = published.lookup(ART, "test/fog")
    assert lines[figure["id"]].split(",")[:4] == ["Singh et al. 2020", "CIFAR-10-C", "ART", "F"]


def test_what_is_looked_up_is_the_callers_own():
    published.lookup(ART, "test/fog")["value"] = 0.0
    assert published.lookup(ART, "test/fog")["value"] == 71.04


# ---- the layout


def test_each_printed_row_has_ours_below():
    for table in papers.tables({}):
        names, sources = ([line[i].text for line in table.rows] for i in (0, 1))
        assert len(set(names)) == len(names)
        assert names[1::2] == [f"{name}, measured" for name in names[::2]]
        assert sources == ["published", "not measured"] * (len(names) // 2)
        assert [line[0].sort for line in table.rows] == sorted(line[0].sort for line in table.rows)
        assert {len(line) for line in table.rows} == {len(table.columns)}
        assert {entry.text for line in table.rows[1::2] for entry in line[2:]} == {number_format.NONE}
        assert [column.number for column in table.columns[:3]] == [False, False, True]
    keys = [table.key for table in papers.tables({})]
    assert len(set(keys)) == len(keys) == len(SUMS) and all(key.replace("-", "").isalnum() for key in keys)


def test_columns_are_in_print_order():
    found = tables({})
    for name, heads in HEADS.items():
        assert [column.label for column in found[name].columns[2:]] == heads.split()
    boxes = found["localisation on CUB-200-2011"].columns[2:]
    ends = ["Grad GT-Known Loc", "Grad Top-1 Loc", "CAM GT-Known Loc", "CAM Top-1 Loc", "Top-1 Acc"]
    assert [column.label for column in boxes] == ends  # though the first row has but the last two
    assert boxes[0].remark == "GT-known Loc (gradient)" and found["CIFAR-10-C"].columns[2].remark == "gaussian noise"


def test_rows_are_in_print_order():
    names = [line[0].text for line in tables({})["main table"].rows[::2]]
    assert names[:4] == ["CIFAR-10, Natural", "CIFAR-10, PGD-10", "CIFAR-10, ART", "SVHN, Natural"]
    assert names[-5:] == [f"Flower, {m}" for m in ("Natural", "IG Norm", "IG-SUM Norm", "PGD-7", "ART")]
    assert len(names) == 16


def test_the_remark_says_how_and_lists_the_notes():
    figures = published.figures()
    for (_, name), some in figures.groupby(["paper", "table"]):
        table = tables({})[name]
        assert all(protocol in table.remark for protocol in some["protocol"])
        assert f" 0 of {len(some)} figures are measured." in table.remark
        notes = {note for note in some["note"] if note}
        assert all(number_format.capitalised(note) in table.remark or note in table.remark for note in notes)
        used = {entry.mark for line in table.rows for entry in line[2:] if entry.mark}
        assert all(f" {mark}: " in table.remark for mark in used)
        assert len(used) == len(notes) or (len(notes) == 1 and not used)
    sic = lines(tables({})["CIFAR-100"])["SAT, Resnet-10 - Std. - I.Grad"][3]
    assert (sic.text, sic.mark) == ("5.43", "a")
    assert "a: (sic) below the value at 3/255" in tables({})["CIFAR-100"].remark


# ---- ours


def test_ours_stands_below_its_figure_and_nowhere_else():
    found = {"test/fog": (0.70, 0.02), "test/snow": (0.80, 0.01)}
    leaderboards = {"art-cifar10": board(row("art", ART, found))}
    table = tables(leaderboards)["CIFAR-10-C"]
    ours = lines(table)["ART, measured"]
    assert ours[1].text == "measured, 3 seeds, art-cifar10: art"
    placed = {column.label: entry for column, entry in zip(table.columns, ours, strict=True)}
    assert astuple(placed["F"])[:3] == ("70.0 ± 2.0", 0.70, "−1.0, in the interval")
    assert astuple(placed["S"])[:3] == ("80.0 ± 1.0", 0.80, "−5.0, not in the interval")
    filled = [
        e
        for t in papers.tables(leaderboards)
        for line in t.rows[1::2]
        for e in line[2:]
        if e.text != number_format.NONE
    ]
    assert len(filled) == 2
    assert "2 of 45 figures are measured." in table.remark
    assert papers.counted(leaderboards) == (2, 333) and papers.counted({}) == (0, 333)


def test_one_seed_covers_nothing():
    leaderboards = {"b": board(row("art", ART, {"test/fog": (0.75, math.nan)}, seeds=1))}
    ours = lines(tables(leaderboards)["CIFAR-10-C"])["ART, measured"]
    assert ours[1].text == "measured, 1 seed, b: art"
    assert (ours[10].text, ours[10].mark) == ("75.0", "+4.0, one seed")


def test_of_several_the_one_with_most_seeds_then_by_name():
    def of(cell, mean, seeds):
        return row(cell, ART, {"test/fog": (mean, 0.01)}, seeds)

    def shown(leaderboards):
        line = lines(tables(leaderboards)["CIFAR-10-C"])["ART, measured"]
        return line[1].text, line[10].text

    few = board(of("art", 0.90, 3))
    many = board(of("z", 0.80, 5), of("art", 0.60, 5), of("b", 0.70, 3))
    best = ("measured, 5 seeds, later: art", "60.0 ± 1.0")  # not that of 80: no figure is chosen by its height
    assert shown({"early": few, "later": many}) == shown({"later": many, "early": few}) == best
    assert shown({"later": many, "a": many})[0] == "measured, 5 seeds, a: art"


def test_each_figure_of_a_mixed_row_says_whose_it_is():
    accurate = row("art", ART | {"measure.step": "0.0"}, {"test/clean": (0.90, 0.01)}, seeds=5)
    attacked = row("art", PGD40 | {"measure.steps": "40"}, {"test/pgd40-8": (0.40, 0.03)})
    line = lines(tables({"x": board(accurate), "y": board(attacked)})["main table"])
    ours = line["CIFAR-10, ART, measured"]
    assert ours[1].text == "measured, 5 seeds, x: art; 3 seeds, y: art"
    assert ours[4].mark == "+0.2, in the interval, 5 seeds, x: art"
    assert ours[5].mark == "+2.4, in the interval, 3 seeds, y: art"


def test_a_figure_printed_thrice_has_ours_thrice():
    leaderboards = {"sat": board(row("published", SAT, {"test/pgd5-2": (0.15, 0.01)}))}
    found = tables(leaderboards)
    places = ("Adv. teacher, alpha^10 = 0.6", "Adv. teacher, eps0 = 8/255", "SAT, Resnet-10 - Adv. - GBP")
    for name, label in zip(("ablation of alpha^10", "ablation of eps0", "CIFAR-100"), places, strict=True):
        assert lines(found[name])[f"{label}, measured"][3].mark == "+0.3, in the interval"
    assert papers.counted(leaderboards) == (3, 333)


def test_another_point_of_an_ablation_stays_there():
    leaderboards = {"sat": board(row("0.8", SAT | {"method.alpha10": "0.8"}, {"test/pgd5-2": (0.15, 0.01)}))}
    assert papers.counted(leaderboards) == (1, 333)
    tuned = {"sat": board(row("0.79", SAT | {"method.alpha10": "0.79"}, {"test/pgd5-2": (0.15, 0.01)}))}
    assert lines(tables(tuned)["CIFAR-100"])["SAT, Resnet-10 - Adv. - GBP, measured"][3].text == "15.0 ± 1.0"
    assert papers.counted(tuned) == (1, 333)


def test_boards_with_gaps_and_without_figures():
    leaderboard = board(row("art", ART, {"test/fog": (0.70, 0.02)}), plain("waits", {}, 0))
    without = board(plain("a", {"test/clean": Figure(0.9, 0.1, 3)}, 3))
    assert papers.counted({"x": leaderboard, "y": without}) == (1, 333)


def test_the_same_boards_give_the_same_tables():
    found = {"test/fog": (0.70, 0.02), "test/snow": (0.80, 0.01)}
    one, turned = (board(row("art", ART, dict(some))) for some in (found.items(), reversed(found.items())))
    two = board(row("pgd", PGD10, {"test/fog": (0.60, 0.02)}))
    assert papers.tables({"a": one, "b": two}) == papers.tables({"b": two, "a": turned})
