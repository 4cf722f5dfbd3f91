"""Reading guide of a report: how scores, intervals, groups, selection, test and cost are defined."""

import math
from collections.abc import Iterable

import pandas as pd

from harness.evaluation.metrics import DROPPING, PROTOCOLS
from reports.analyse import counted_runs, published
from reports.analyse.missing import is_missing
from reports.analyse.rows import Leaderboard
from reports.present.findings import checked, shared, warnings
from reports.present.number_format import duration, listed, percent, setting
from reports.read import score_names

_PROTOCOLS = {
    "art": "protocol of Singh et al. (2020), which attacks the map of the logit and scores that of the cross-entropy; "
    "an image is dropped if every step changes its prediction",
    "rar": "protocol of Chen et al. (2019), which scores the map of the logit that it attacks; if no step lowers the "
    "measure, the attack failed and the image counts as 1",
    "fast": "as ART, approximately: at each step it looks at a few of the interpolation points; dropped as there",
    "strong": "the worst case for each measure over objectives and restarts; if nothing lowers it, the attack failed "
    "and the image counts as 1",
    "random": "random signs in place of the attack's, as a control",
}

_WEIGHTS = (
    " Depends on weights: parameter randomisation (Adebayo et al., 2018). All layers are initialised anew, and the map "
    "of the same class is compared with that of the trained net, by Spearman's rank correlation of absolute values on "
    "up to 16 images. no: the correlation is significantly above 0.71, so that more than half of the variance of the "
    "ranks does not come from what the net has learned, but from image and architecture."
)


def reading(runs: pd.DataFrame, leaderboard: Leaderboard) -> list[tuple[str, str]]:
    """The reading guide as (term, explanation): scores, intervals, groups, selection, test, cost, warnings."""
    if not leaderboard.finished:
        return [("Warning", text) for text in leaderboard.ends]
    tested = counted_runs.tested(runs)
    pairs = [("Scores", _protocol(tested, leaderboard))]
    if text := _attributions(tested, leaderboard):
        pairs.append(("Attributions", text))
    pairs.append(("Mean ± interval", _intervals(tested, leaderboard)))
    pairs.append(
        (
            "Group",
            "Cells share a group if Welch's test over seeds, with Holm's correction for the cells compared with "
            "the group's best, cannot distinguish them from it at 5 %, or if a single seed allows no test. That is "
            "no proof of equality. Bold figures likewise: indistinguishable from the best of their column.",
        )
    )
    if len(leaderboard.goals) > 1:
        names = [score_names.label(goal) for goal in leaderboard.goals]
        pairs.append(
            (
                "Front",
                f"Goals are {listed(names)}. yes: on the Pareto front: no row is as good in all goals and "
                f"better in one, by the means on test. Order, groups and differences use {names[0]} only.",
            )
        )
    if control := leaderboard.control:
        name = score_names.label(leaderboard.ranked_by)
        text = f"Difference in {name} to the first control, in percentage points, with its Welch interval."
        pairs.append((f"vs {control}", text))
    pairs += [("Selection", _selection(runs, leaderboard)), ("Test", _test(runs, tested, leaderboard))]
    phases = [c for c in ("seconds/train", "seconds/val", "seconds/test") if c in runs]
    if total := _unique_trials(runs)[phases].sum().sum():
        pairs.append(
            (
                "Cost",
                f"Training and evaluation of all complete runs took {duration(total)} of device time, without pruned "
                f"and failed runs, teachers and maps.{_disk(runs)}",
            )
        )
    return pairs + [("Warning", text) for text in (*warnings(leaderboard), *shared(tested), *checked(tested))]


def _disk(runs: pd.DataFrame) -> str:
    """What the output folder held when the sweep last ended; "" for several sweeps, or where it is not known."""
    kinds = {name: f"disk/{name}" for name in ("trials", "teachers", "maps")}
    sizes = {name: runs[column].dropna().unique() for name, column in kinds.items() if column in runs}
    if not sizes or any(len(values) != 1 for values in sizes.values()):
        return ""
    texts = [f"{values[0] / 1e6:,.1f} MB of {name}" for name, values in sizes.items()]
    return f" When the sweep last ended, its output folder held {listed(texts)}, all sweeps in it included."


def _protocol(tested: pd.DataFrame, leaderboard: Leaderboard) -> str:
    attacks = sorted({a for s in leaderboard.shown if (a := score_names.attack(s))})
    settings = [column for column in tested.columns if column.startswith("param:measure.")]
    params = {column.removeprefix("param:"): next(iter(tested[column].dropna()), "0") for column in settings}
    text = "Accuracy in per cent of the test images. clean: unperturbed."
    for steps, restarts in sorted({(s, r) for _, s, r in attacks}):
        grid = ", ".join(f"{e:g}" for e, s, r in attacks if (s, r) == (steps, restarts))
        worst = f", the worst of {restarts} restarts" if restarts > 1 else ""
        text += (
            f" PGD-{steps}: under {steps} steps of projected gradient descent (PGD) in the maximum norm{worst}, eps "
        )
        text += f"{grid} in 255ths"
        known = {name: score_names.attack(name) for name in leaderboard.shown}
        same_attack = [name for name, attack in known.items() if attack and attack[1:] == (steps, restarts)]
        step_sizes = {published.step(params, name) for name in same_attack}
        fixed = len(step_sizes) == 1 and step_sizes != {published.step({}, name) for name in same_attack}
        text += f"; step size {setting('step', repr(min(step_sizes)))}." if fixed else "; step size 2.5 · eps / steps."
    if attacks and "test/robust" in leaderboard.scores:
        text += " robust: the mean of the PGD accuracies over that grid."
    return text


def _attributions(tested: pd.DataFrame, leaderboard: Leaderboard) -> str:
    """Definition of IN, K and the protocols, their settings and numbers of images; "" if none was measured."""
    by_protocol: dict[str, list[str]] = {}
    for name in leaderboard.shown:
        if parts := score_names.attribution(name):
            by_protocol.setdefault(parts[0], []).append(name)
    if not by_protocol:
        return ""
    k, eps, steps, step, points = (_values(tested, f"attribution.{p}") for p in ("k", "eps", "steps", "step", "points"))
    step = "eps / 8" if step in ("0", "0.0") else step
    text = "Similarity of an attribution map before and after an attack on it, in per cent, over the images that are "
    text += "classified correctly"
    names_of_all = [name for names in by_protocol.values() for name in names]
    images = [row.figure(name).images for row in leaderboard.finished for name in names_of_all]
    counted, wrong = _count(of.counted for of in images), _count(of.wrong for of in images)
    text += f": {counted} a run" if counted else ""
    text += f" ({wrong} are not)" if wrong else ""
    text += ". IN: of the k most important pixels"
    text += f" (k = {k})" if k else ""
    text += ", the share that is still among them. K: Kendall's tau-b of the maps before and after, from −100 to 100."
    if eps:
        text += f" The attack changes every value of an image by at most {eps}"
        text += f" in {steps} steps" + (f" of {step}" if step else "") if steps else ""
        text += "."
    text += " Maps are integrated gradients unless another one is named"
    quick = [PROTOCOLS[p] for p in by_protocol if p in ("fast", "strong")]
    text += f"; attacks of {listed(quick)} use {points} interpolation points." if points and quick else "."
    for protocol, names in sorted(by_protocol.items(), key=lambda pair: list(_PROTOCOLS).index(pair[0])):
        images = [row.figure(name).images for row in leaderboard.finished for name in names]
        excluded = _count(of.dropped if protocol in DROPPING else of.failed for of in images)
        text += f" {PROTOCOLS[protocol]}: {_PROTOCOLS[protocol]}"
        text += f" ({excluded} a run)." if excluded else "."
    csv = [score_names.attribution(name) for name in leaderboard.scores if name not in leaderboard.shown]
    hidden = [parts for parts in csv if parts]
    csv_only = []
    if any(measure not in ("in", "k") for _, _, measure in hidden):
        csv_only.append("further measures (LENS: those of Kamath et al. (2024), which tolerate small shifts)")
    if any(protocol == "random" for protocol, _, _ in hidden):
        csv_only.append("the control: random signs in place of the attack's")
    text += _WEIGHTS if any(row.random_weights for row in leaderboard.finished) else ""
    return text + (f" Only the CSV has {listed(csv_only)}." if csv_only else "")


def _count(numbers: Iterable[float | None]) -> str:
    """Numbers of images per run, as a range; "" if none is recorded."""
    known = [round(n) for n in numbers if n is not None and not math.isnan(n)]
    return _range(known) if known else ""


def _values(tested: pd.DataFrame, path: str) -> str:
    """The values of a setting as text; "" if no run has it."""
    values = tested[f"param:{path}"].dropna().unique() if f"param:{path}" in tested else []
    return " or ".join(dict.fromkeys(setting(path, text) for text in values))


def _intervals(tested: pd.DataFrame, leaderboard: Leaderboard) -> str:
    done, score = leaderboard.finished, leaderboard.ranked_by
    numbers = [row.seeds for row in done]
    seeds = "a single seed" if set(numbers) == {1} else f"{_range(numbers)} seeds"
    text = f"Over {seeds} of each winner; ± is half of the 95 % interval by Student's "
    text += "t: how much the mean would vary with other seeds."
    if min(numbers) < 2:
        text += " A single seed has no interval."
    if any(abs(row.figure(score).half) < 5e-7 for row in done):
        text += " ± 0.0 means that all seeds agreed on every image, not that the figure is certain."
    column = score_names.on(score, "test_stderr")
    if column in tested:
        error = tested.loc[tested["row"] == done[0].name, column].mean()
        if not is_missing(error):
            same = "" if score_names.attribution(score) else ", the same for all cells"
            text += f" It does not include the sampling of test images{same}, which alone gives the "
            text += f"first row ± {percent(1.96 * error)}."
    return text


def _selection(runs: pd.DataFrame, leaderboard: Leaderboard) -> str:
    goals = counted_runs.goals(runs)
    number = _count(row.val_images for row in leaderboard.finished)
    images = f" on {number} validation images" if number else ""
    if len(goals) > 1:
        rule = f"winners are the complete trials on the Pareto front of {', '.join(goals)}{images}"
    else:
        rule = f"winner is the complete trial with the highest {goals[0]}{images}"
    floor = next((text for text in runs["floor"].dropna() if text), "") if "floor" in runs else ""
    rule += f", of those with at least {floor}" if floor else ""
    trials = runs[runs["role"] == "search"].groupby("cell").size()
    size = f", of {_range(trials)} trials" if len(trials) else ""
    duplicates = int(runs.drop_duplicates("study")["duplicates"].sum()) if "duplicates" in runs else 0
    of_all = (
        f" {duplicates} more proposals had the settings of an earlier trial and were not run." if duplicates else ""
    )
    head = f"Every cell has its own Optuna study{size}.{of_all} Its {rule}, retrained with other seeds."
    return f"{head} Pruned and failed trials cannot win."


def _test(runs: pd.DataFrame, tested: pd.DataFrame, leaderboard: Leaderboard) -> str:
    number = _count(row.test_images for row in leaderboard.finished)
    images = f" on {number} images" if number else ""
    text = f"Measured{images}, after the search."
    if "test_touches" in runs:
        evaluations = int(_unique_trials(runs)["test_touches"].sum())
        reported = len(_unique_trials(tested))
        text += f" {reported} runs behind these figures; {evaluations} test evaluations in all"
        text += ", one each." if evaluations == reported else ": not one each, so look into the difference."
    return text + " The rows are ordered by test scores, which favours the first a little."


def _unique_trials(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs, each trial once: cells that share a trial, as in merged experiments, trained and measured it once."""
    named = runs["key"].fillna("") != ""
    return runs[~(named & runs.duplicated("key"))]


def _range(numbers: Iterable[int]) -> str:
    values = sorted(set(numbers))
    return f"{values[0]:,}" if len(values) == 1 else f"{values[0]:,} to {values[-1]:,}"
