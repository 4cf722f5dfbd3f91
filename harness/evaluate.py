"""Measure a trained net: every metric gives one number per image, so that errors, paired tests and worst cases follow.

    python -m harness.evaluate --trial 1973b1de3595 --suite attribution        # one that was run, by its key
    python -m harness.evaluate --space attribution --cell art --suite attribution,attribution-legacy --test
    python -m harness.evaluate --trial 1973b1de3595 --suite attribution --set attribution.images=200

What is measured goes beside the trial's own results, and is not measured again.
"""

import argparse
import dataclasses
import functools
import hashlib
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from harness import attacks, suites
from harness import attribution as attributions
from harness.batch import Batch
from harness.config import Attribution, Measure, Trial, build, check_read
from harness.datasets import Data, Split
from harness.errors import Mistake, exit_status, unknown
from harness.place import Place, read_json, write, write_json
from harness.randomness import exact, seeded
from harness.suites import CHUNK, Measurement, Suite


@dataclass(frozen=True)
class Score:
    """A number and what it rests on. name: `split/metric[-strength]`, strength in 255ths.

    n: images counted. counts: of an attribution, the images not attacked because they were `wrong`, `dropped` because
    no step kept the prediction, `failed` because none lowered the measure. per_example: float32, one value per image
    of the split, NaN where it is not counted.
    """

    name: str
    mean: float
    stderr: float
    n: int
    protocol: dict[str, object] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    per_example: np.ndarray | None = field(default=None, repr=False, compare=False)

    @classmethod
    def of(cls, name: str, values: Tensor, protocol: dict[str, object], counts: dict[str, int] | None = None):
        """The score of one value per image (N,); those that are NaN are not counted."""
        counted = values[~values.isnan()].double()
        stderr = float(counted.std() / len(counted) ** 0.5) if len(counted) > 1 else float("nan")
        images = values.float().cpu().numpy()
        return cls(name, float(counted.mean()), stderr, len(counted), protocol, counts or {}, images)

    def record(self) -> dict[str, object]:
        """All but the numbers per image, as JSON keeps it."""
        return {name: value for name, value in vars(self).items() if name != "per_example"}


def check(trial: Trial, data: Data) -> None:
    """Raise `Mistake` where the trial asks for a measurement that its data does not allow, before it is trained."""
    suites.named(trial.measure.suites)
    if trial.measures_attribution:
        attributions.check(trial.attribution, len(data.classes), *data.train.x.shape[-2:])


def evaluate(
    model: nn.Module,
    split: Split,
    measure: Measure,
    attribution: Attribution | None = None,
    *,
    name: str,
    suite: Suite | None = None,
    seed: int = 0,
) -> list[Score]:
    """Every score of the suite (by default those that `measure` names) on a split.

    Where PGD was measured at every eps of the grid, `robust` is their mean: the area under the accuracy-eps curve on
    the grid tells weak methods apart where a single large eps gives 0 for all. The model is in evaluation mode within
    and as before after. Each measurement has its own seed.
    """
    suite = suite or suites.named(measure.suites)
    # Which images are classified correctly: asked by every measurement of attributions, found once.
    right = functools.cache(
        lambda: torch.cat([suites.accuracy(model, batch) for batch in chunks(split)]).nonzero().squeeze(1)
    )
    scores = []
    with attacks.frozen(model), exact():
        for key, measurement in suite(measure, attribution or Attribution()).items():
            with seeded(seed, key):
                scores += _scores(model, split, right, key, measurement, name)
    by_name = {s.name: s for s in scores}
    grid = [by_name.get(f"{name}/{suites.pgd_name(measure, eps)}") for eps in measure.eps]
    if all(grid):
        mean = torch.from_numpy(np.mean([s.per_example for s in grid], axis=0))
        protocol = {"mean of": [s.name for s in grid], "step": measure.step}
        scores.append(Score.of(f"{name}/robust", mean, protocol))
    return scores


def _scores(
    model: nn.Module, split: Split, right: Callable[[], Tensor], key: str, measurement: Measurement, name: str
) -> list[Score]:
    chosen, counts = split, {}
    if measurement.images is not None:
        index = right()[: measurement.images or None]
        seen = int(index[-1]) + 1 if len(index) < len(right()) else len(split)
        chosen, counts = split.at(index), {"wrong": seen - len(index)}
    parts = [measurement.metric(model, batch) for batch in chunks(chosen)]
    parts = [part if isinstance(part, dict) else {key: part} for part in parts]
    scores = []
    for score in parts[0] if parts else ():
        values = torch.cat([part[score] for part in parts])
        if measurement.images is None:
            scores.append(Score.of(f"{name}/{score}", values, measurement.protocol))
            continue
        everywhere = torch.full((len(split),), torch.nan, device=values.device)
        everywhere[index] = values.float()
        if measurement.likeness:
            counts |= {"dropped": int(values.isnan().sum()), "failed": int((values >= 1).sum())}
        scores.append(Score.of(f"{name}/{score}", everywhere, measurement.protocol, dict(counts)))
    return scores


def image_passes(trial: Trial, val: int, test: int) -> dict[str, int]:
    """How many images a trial sends forward and back to be measured: while it trains and at its end, and on test."""
    measure = trial.measure
    robust = 1 + len(measure.eps) * measure.restarts * (measure.steps + 1)
    standard = robust + 2 * len(measure.eps) if "standard" in measure.suites else 0
    watched = min(val, measure.images or val) * -(-trial.epochs // measure.watch)
    each = sum(attributions.passes(name, trial.attribution) for name in measure.suites)
    attacked = {part: min(n, trial.attribution.images or n) * each for part, n in (("val", val), ("test", test))}
    return {
        "val": watched * robust + val * standard + attacked["val"],
        "test": test * standard + attacked["test"],
    }


def chunks(split: Split):
    """The split's images in [0, 1] as batches in order."""
    for x, y in zip(split.x.split(CHUNK), split.y.split(CHUNK), strict=True):
        yield Batch(x.to(memory_format=torch.channels_last).float().div_(255), y)


def line(score: Score) -> str:
    """A score for a terminal: per cent, where it is a share or a likeness, with what was not counted."""
    counts = ", ".join(f"{count} {what}" for what, count in score.counts.items() if count)
    unit = 1 if score.name.endswith(("_left", "_right", "_slack")) else 100
    figure = f"{unit * score.mean:6.2f} ± {unit * score.stderr:.2f}{' %' if unit == 100 else ''}"
    return f"{score.name:<26} {figure:<20} n = {score.n}{f' ({counts})' if counts else ''}"


def recorded(key: str, place: Place) -> Trial:
    """The trial of that key under `place.out`. Raises `Mistake` where there is none, or it is of another version."""
    record = read_json(place.trial(key) / "trial.json")
    if record is None:
        raise unknown("trial", key, [p.name for p in (place.out / "trials").glob("*") if p.is_dir()])
    trial = build(record["settings"])
    if trial.key != key:
        raise Mistake(f"trial {key} was run by another version of this harness, whose protocol differed; run it again")
    return trial


def measure(trial: Trial, asked: Trial, place: Place, *, split: str) -> list[Score]:
    """The scores that `asked` asks for of the net that `trial` trains, on `val` or `test`; kept beside its results.

    A measurement on test is recorded as a touch before the first image is looked at.
    """
    from harness import datasets
    from harness import trial as trials

    data = datasets.load(trial.data, place)
    check(asked, data)
    settings = {path: value for path, value in asked.flat().items() if path.startswith(("measure.", "attribution."))}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    file = place.trial(trial.key) / f"evaluation-{split}-{digest}.json"
    model, result = trials.trained(trial, place)
    if (stored := read_json(file)) is not None:
        return [Score(**s) for s in stored["scores"]]
    if split == "test":
        trials.touched(result, place)
    began = time.perf_counter()
    scores = evaluate(model, getattr(data, split).to(place.device), asked.measure, asked.attribution, name=split)
    images = {s.name: s.per_example for s in scores}
    write(file.with_suffix(".npz"), lambda temporary: np.savez_compressed(temporary, **images))
    record = {"settings": settings, "seconds": time.perf_counter() - began, "machine": trials.machine(place.device)}
    write_json(file, {**record, "checksums": data.checksums, "scores": [s.record() for s in scores]})
    return scores


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    from harness import cli

    p = cli.parser("harness.evaluate", __doc__, single=True)
    p.add_argument("--trial", metavar="KEY", help="a trial under --out, instead of a space and a cell")
    p.add_argument(
        "--suite", default="standard", help=f"some of {', '.join(suites.SUITES)}, joined by commas (default standard)"
    )
    return p.parse_args(words)


def main() -> int:
    from harness import cli

    args = arguments()
    place, overrides = cli.place(args), cli.overrides(args)
    how = {path: value for path, value in overrides.items() if path.startswith(("measure.", "attribution."))}
    what = {path: value for path, value in overrides.items() if path not in how}
    if args.trial and what:
        raise Mistake(f"{next(iter(what))} is settled by --trial; only measure.* and attribution.* can be set")
    if args.trial:
        trial = recorded(args.trial, place)
    else:
        cell = cli.chosen(cli.space(args.space).cells(what), args.cell)
        trial = dataclasses.replace(cell.trial, seed=args.seed)
    asked = build({**trial.flat(), "measure.suites": args.suite, **how})
    check_read(asked, how)
    if not args.quiet:
        print(f"trial {trial.key} ({args.suite}) on {place.device}", flush=True)
    for score in measure(trial, asked, place, split="test" if args.test else "val"):
        print(line(score))
    return 0


if __name__ == "__main__":
    from harness.evaluate import main  # this file's second self, the one that `harness.trial` imports

    sys.exit(exit_status(main))
