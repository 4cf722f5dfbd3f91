"""A new metric needs an entry in `METRICS` and a place in a suite; reports show it without further edits."""

import pandas as pd
import pytest
import torch
from rows import leaderboard, seeds

from harness.data.datasets import Split
from harness.evaluation import evaluator
from harness.evaluation.measurements import Measurement
from harness.evaluation.metrics import KINDS, METRICS, Metric, Unit
from harness.evaluation.settings import Measure
from harness.evaluation.suites import SUITES, Suite
from harness.models import nets
from reports.present import findings, sections, tables
from reports.read import score_names
from reports.read.artifacts import Files

SHARPNESS = Metric("Sharpness", "other", Unit("nats", lowest=0), better="lower")


def stored(cell, clean, **means):
    """Three seed runs whose scores differ a little from seed to seed."""
    rows = seeds(cell, [clean - 0.01, clean, clean + 0.01])
    return [row | {f"test/{n}": v * (1 + i / 100) for n, v in means.items()} for i, row in enumerate(rows, -1)]


def column(table, start):
    (place,) = (i for i, column in enumerate(table.columns) if column.label.startswith(start))
    return table.columns[place].label, [row[place] for row in table.rows]


def test_a_suite_measures_it_and_the_leaderboard_shows_it_in_its_unit(monkeypatch):
    monkeypatch.setitem(METRICS, "sharpness", SHARPNESS)
    monkeypatch.setitem(
        SUITES, "sharp", Suite("sharp", lambda context: {"sharpness": Measurement(lambda model, batch: 3 + batch.y)})
    )
    split = Split(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 2, 3]))
    (score,) = evaluator.evaluate(nets.build("small", 1, 10), split, Measure(suites=("sharp",)), name="test")
    assert score.name == "test/sharpness" and score.mean == 4.5
    assert "4.50" in evaluator.format_score(score) and "%" not in evaluator.format_score(score)
    rows = [stored("standard", 0.5, sharpness=score.mean), stored("pgd", 0.5, sharpness=2.25)]
    table = leaderboard(*rows)
    ranking = tables.ranking(table)
    label, entries = column(ranking, "Sharpness")
    assert (
        label == "Sharpness [nats]" and ranking.caption.endswith("interval") and "unit in brackets" in ranking.caption
    )
    shown = {row[0].text: entry for row, entry in zip(ranking.rows, entries, strict=True)}
    assert shown["standard"].text.startswith("4.5 ± ") and shown["pgd"].text.startswith("2.25 ± ")
    assert shown["pgd"].best and not shown["standard"].best  # lower is better
    assert not score_names.accuracy("test/sharpness") and findings.measured(["test/sharpness"]) == "Sharpness"
    own = tables.scores_of_kind(table, "other")
    assert own.caption.startswith("Other, on test") and column(own, "Sharpness")[0] == "Sharpness [nats]"


@pytest.mark.parametrize("kind", ["other", "calibration"])
def test_it_has_a_table_in_its_kind(monkeypatch, kind):
    monkeypatch.setitem(METRICS, "ece", Metric("ECE", kind, Unit("%", 100, 0, 1), "lower"))
    if kind != "other":
        assert score_names.kind("test/ece") == "other"  # until the kind has a heading
        monkeypatch.setitem(KINDS, kind, "Calibration")
    runs = [*stored("standard", 0.5, ece=0.12), *stored("pgd", 0.5, ece=0.04)]
    table = leaderboard(runs)
    label, entries = column(tables.scores_of_kind(table, kind), "ECE")
    assert label == "ECE" and {entry.text.partition(" ")[0] for entry in entries} == {"12.0", "4.0"}
    (section,) = (s for s in sections.all_sections(pd.DataFrame(runs), table, Files()) if s.key == "other")
    assert [item.key for item in section.items] == [kind]


def test_a_stored_score_of_no_known_metric_is_a_plain_number():
    table = leaderboard(stored("standard", 0.5, gini=0.31), stored("pgd", 0.5, gini=0.62))
    for shown in (tables.ranking(table), tables.scores_of_kind(table, "other")):
        label, entries = column(shown, "Gini")
        assert label == "Gini [number]"
        assert sorted(entry.text.partition(" ")[0] for entry in entries) == ["0.31", "0.62"]
        assert not any(entry.best for entry in entries)  # which direction is better is unknown
    assert not score_names.accuracy("test/gini") and not score_names.is_minor("test/gini")
