"""Score names: one parser and one formatter for every name that is measured, stored or published."""

import dataclasses

import pytest
import torch

from harness.data.corruptions.names import NAMES
from harness.evaluation import suites
from harness.evaluation.attribution_protocols import similarities
from harness.evaluation.measurements import Combined, EvaluationContext
from harness.evaluation.metrics import KINDS, METRICS, UNKNOWN, Metric
from harness.evaluation.score_name import ScoreName, in_255ths
from harness.evaluation.settings import Attribution, Measure
from harness.explain import localization
from harness.explain.maps import attackable
from reports.analyse import published

ATTRIBUTION = Attribution(maps=tuple(attackable()))


def measured_names():
    """Every name that a suite can produce, for settings whose parts all appear in names."""
    measures = [Measure((0.5 / 255, 8 / 255), 10, restarts=r) for r in (1, 3)]
    names = set()
    for measure in measures:
        for suite in suites.SUITES:
            context = EvaluationContext(measure, ATTRIBUTION, boxes=True, masks=True)
            for name, item in suites.combined([suite])(context).items():
                if isinstance(item, Combined) or not (item.is_similarity or item.postprocess):
                    names.add(name)
                elif item.is_similarity:
                    names |= {f"{name}-{measure}" for measure in similarities(10)}
    sweep = torch.rand(2, len(localization.THRESHOLDS))
    boxes = {name: sweep for name in ("grad", "cam", "grad-any", "cam-any")} | {"right": torch.ones(2)}
    boxes["centre"] = torch.rand(2, len(localization.SHARES))
    names |= set(localization.box_scores(boxes, {name: localization.CENTRE for name in ("grad", "cam", "centre")}))
    masks = {name: sweep for name in ("iou", "dice", "pixel")}
    names |= set(localization.mask_scores(masks | {f"{n}-otsu": torch.rand(2) for n in masks}, 0.5))
    names -= {"bound"}  # its scores are its sides
    names |= {f"bound_{side}" for side in ("left", "right", "slack")}
    return names | {"completeness_left", "completeness_right", "cw20_l2", "cw100_l2", "l2-aa-8", "l2-aa-apgd-t-0.5"}


def test_every_name_is_known_and_stays_as_it_is():
    names = measured_names()
    assert {"pgd10x3-0.5", "l2-pgd40-128", "aa-8", "strong-gradcam_pp-lens_recall", "fog-3", "dice-otsu"} <= names
    assert "gtknown-grad-transferred" in names and len(names) > 250
    names |= set(published.figures()["score"]) - {""}
    for name in names:
        parsed = ScoreName.parse(name)
        assert str(parsed) == name and parsed.metric in METRICS, name
        if "/" not in name:
            assert ScoreName.parse(f"val/{name}") == dataclasses.replace(parsed, split="val")
    assert {ScoreName.parse(name).metric for name in names} == set(METRICS) - {
        *("apgd-ce", "apgd-t", "fab-t", "square", "aa-square")  # only of evaluations elsewhere
    }


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("test/pgd10x3-0.5", ScoreName("pgd", "test", 10, 3, strength=0.5)),
        ("l2-pgd40-128", ScoreName("pgd", steps=40, norm="l2", strength=128)),
        ("pgd10-2.55e-05", ScoreName("pgd", steps=10, strength=2.55e-5)),
        ("val/aa-apgd-ce-8", ScoreName("aa-apgd-ce", "val", strength=8)),
        ("cw100_l2", ScoreName("cw_l2", steps=100)),
        ("fog-3", ScoreName("fog", severity=3)),
        ("fog", ScoreName("fog")),
        ("strong-in", ScoreName("in", protocol="strong")),
        ("test/random-gradcam_pp-k", ScoreName("k", "test", protocol="random", map="gradcam_pp")),
        ("top1loc-cam-oracle", ScoreName("top1loc", map="cam", variant="oracle")),
        ("iou-otsu", ScoreName("iou", variant="otsu")),
    ],
)
def test_the_parts_of_a_name(text, name):
    assert ScoreName.parse(text) == name and str(name) == text


@pytest.mark.parametrize(
    "text",
    [
        "test/mine",
        "pgd010-8",
        "pgd10-8.0",
        "fog-6",
        "quick-in",
        "art-inn",
        "iou-best",
        "pgd10",
        "cw",
        "l2-fog-3",
        "",
        "pgd-",
    ],
)
def test_any_other_name_is_a_metric_of_its_own(text):
    name = ScoreName.parse(text)
    assert str(name) == text and name.metric == text.removeprefix("test/")
    assert name.about is UNKNOWN and not name.about.is_share and name.about.kind == "other"


def test_a_new_metric_is_read_in_its_form(monkeypatch):
    assert ScoreName.parse("l2-bim7-4").metric == "l2-bim7-4"
    monkeypatch.setitem(METRICS, "bim", Metric("BIM", "accuracy", form="attack"))
    assert ScoreName.parse("l2-bim7-4") == ScoreName("bim", steps=7, norm="l2", strength=4)


@pytest.mark.parametrize(("eps", "strength"), [(8 / 255, 8), (0.5 / 255, 0.5), (0, 0), (1 / 3, 85), (0.1, 25.5)])
def test_strengths_have_six_digits(eps, strength):
    assert in_255ths(eps) == strength
    assert ScoreName.parse(str(ScoreName("pgd", steps=1, strength=in_255ths(eps)))).strength == strength


def test_metrics_have_a_kind_and_a_range():
    assert set(KINDS) - {"other"} <= {metric.kind for metric in METRICS.values()} <= set(KINDS)
    assert set(NAMES) <= {name for name, metric in METRICS.items() if metric.form == "corruption"}
    assert METRICS["in"].unit.lowest == 0 and METRICS["k"].unit.lowest == -1
    assert not METRICS["cw_l2"].is_share and not METRICS["bound_slack"].is_share and METRICS["completeness"].is_share
