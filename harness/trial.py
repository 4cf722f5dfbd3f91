"""Run one trial: data -> maps -> model -> fit -> evaluate. Needs neither Ray nor MLflow.

    python -m harness.trial --space sat --set method.alpha10=0.8 --test

A trial's folder is named by its key. What is there already is not done again; what was interrupted goes on.
"""

import dataclasses
import platform
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from harness import datasets, gallery, maps, measuring, models, provenance, suites, train
from harness.batch import Batches
from harness.checks import Check
from harness.config import Trial
from harness.datasets import Data, Split
from harness.doubts import doubt
from harness.errors import Mistake, one_line
from harness.place import Damaged, Place, read_json, set_aside, write_json
from harness.randomness import seeded
from harness.scores import Ledger, Score, save_images
from harness.train import Row

GALLERY = "gallery.npz"  # of the test images, beside the scores on them


@dataclass(frozen=True)
class Result:
    """What a trial gave. scores: `val/...`, and `test/...` once it was tested, without the numbers per image.

    rows: one per epoch. seconds: device time by phase. touches: how often this trial was measured on the test images.
    checks: what `harness.checks` said of the test scores.
    """

    trial: Trial
    scores: list[Score]
    rows: list[Row]
    seconds: dict[str, float]
    checksums: dict[str, str]
    machine: dict[str, str] = field(default_factory=dict)
    touches: int = 0
    checks: list[Check] = field(default_factory=list)

    def score(self, name: str) -> Score | None:
        return next((s for s in self.scores if s.name == name), None)


def ignore(row: Row) -> None:
    """The report that nobody reads."""


def run(trial: Trial, place: Place, *, report: Callable[[Row], None] = ignore, test: bool = False) -> Result:
    """Train and validate the trial, and measure it on the test images if asked; whatever of it is not done yet.

    report(row) hears every epoch, also those of an earlier, interrupted run. Raises `Mistake` for bad input, `Diverged`
    for a loss that is not finite.
    """
    data = datasets.load(trial.data, place)
    measuring.check(trial, data)
    folder = place.trial(trial.key)
    with place.holding(folder) as keep:
        result = _stored(trial, folder, data)
        if result is None:

            def told(row: Row) -> None:
                keep()
                report(row)

            result = _train(trial, place, data, told)
        else:
            for row in result.rows:
                report(row)
        if test and not any(s.name.startswith("test/") for s in result.scores):
            result = _test(result, place, data)
        if test and not (folder / GALLERY).exists():
            _show(trial, place, data)
    return result


def trained(trial: Trial, place: Place) -> tuple[nn.Module, Result]:
    """The trial's net with its trained weights on the device, in evaluation mode, after training it where needed."""
    result = run(trial, place)
    data = datasets.load(trial.data, place)
    return _trained_model(trial, data, place).eval(), result


def _model(trial: Trial, data: Data, place: Place) -> nn.Module:
    with seeded(trial.seed, "weights"):
        model = models.build(trial.model, data.channels, len(data.classes))
    if trial.normalise:
        model.normalised_by(*data.statistics())
    return model.to(place.device)


def _trained_model(trial: Trial, data: Data, place: Place) -> nn.Module:
    """The net with the weights that its folder holds. Raises `Mistake` where they are not such a net's."""
    model, file = _model(trial, data, place), place.trial(trial.key) / "weights.pt"
    try:
        model.load_state_dict(train.load_weights(file))
    except (RuntimeError, TypeError, AttributeError):
        raise Mistake(
            f"{str(file)!r} holds no weights of {trial.model!r}; remove its folder and it runs again"
        ) from None
    return model


def _train(trial: Trial, place: Place, data: Data, report: Callable[[Row], None]) -> Result:
    folder = place.trial(trial.key)
    before = read_json(folder / "trial.json")
    if before and (folder / "checkpoint.pt").exists():
        _same_data(before["checksums"], trial, folder, data)
    else:
        Ledger(folder / "measuring-val").clear()  # of weights that are trained anew
    write_json(folder / "trial.json", {"settings": trial.flat(), "checksums": data.checksums})

    def teach(lesson: Trial) -> tuple[nn.Module, float]:
        net, taught = trained(lesson, place)
        return net, taught.seconds["train"]

    prepared = maps.prepare(trial, data, place, teach)
    model = _model(trial, data, place)
    part, val = data.train.to(place.device), data.val.to(place.device)
    watched = val.head(trial.measure.images)

    def watch(net: nn.Module, done: int) -> Row:
        if done % trial.measure.watch and done != trial.epochs:
            return {}
        scores = measuring.evaluate(net, watched, trial.measure, name="curve", suite=suites.robust_suite)
        return {s.name: s.mean for s in scores}

    net, rows = train.fit(
        model,
        trial.method,
        Batches(part.x, part.y, prepared.maps, trial.batch, trial.augment, trial.data.crop),
        trial.optim,
        trial.epochs,
        seed=trial.seed,
        checkpoint=folder / "checkpoint.pt",
        watch=watch,
        report=report,
    )
    train.save_weights(folder / "weights.pt", net.state_dict())
    scores, took = _timed(lambda: _measured(trial, net, val, "val", place, data))
    seconds = {**prepared.seconds, "train": sum(row["seconds"] for row in rows), "val": took}
    result = Result(trial, scores, rows, seconds, data.checksums, machine(place.device))
    _store(result, folder, "val")
    (folder / "checkpoint.pt").unlink(missing_ok=True)
    return result


def _test(result: Result, place: Place, data: Data) -> Result:
    """Measure on the test images; the touch is recorded before the first of them is looked at."""
    folder = place.trial(result.trial.key)
    model = _trained_model(result.trial, data, place)
    result = touched(result, place)
    split, trial = data.test.to(place.device), result.trial
    scores, took = _timed(lambda: _measured(trial, model, split, "test", place, data))
    checks = doubt(model, split, trial.measure, scores, examples=folder / "attacked.npz")
    seconds = {**result.seconds, "test": took}
    result = dataclasses.replace(result, scores=result.scores + scores, seconds=seconds, checks=checks)
    (folder / GALLERY).unlink(missing_ok=True)  # of weights that were there before
    _store(result, folder, "test")
    return result


def _show(trial: Trial, place: Place, data: Data) -> None:
    """Keep the pictures of a tested net. Its scores are stored already, and count where no picture can be made."""
    try:
        model = _trained_model(trial, data, place)
        file = place.trial(trial.key) / GALLERY
        gallery.keep(file, model, data, trial.measure, trial.attribution, device=place.device)
    except (RuntimeError, Mistake) as error:  # such as a device without memory
        warnings.warn(f"no gallery of trial {trial.key}: {one_line(error)}", stacklevel=2)


def _measured(trial: Trial, net: nn.Module, split: Split, name: str, place: Place, data: Data) -> list[Score]:
    """The scores of a split, measured where an interrupted evaluation left off."""
    folder = place.trial(trial.key)
    how = {"name": name, "ledger": Ledger(folder / f"measuring-{name}")}
    if name == "test":
        how["val"] = data.val.to(split.x.device)
        how["published"] = measuring.published(trial, split, place.data)
    return measuring.evaluate(net, split, trial.measure, trial.attribution, **how)


def touched(result: Result, place: Place) -> Result:
    """Record one more measurement on the test images."""
    stored = read_json(place.trial(result.trial.key) / "result.json") or {}
    result = dataclasses.replace(result, touches=stored.get("touches", result.touches) + 1)
    _store(result, place.trial(result.trial.key))
    return result


def _timed(work: Callable[[], list[Score]]) -> tuple[list[Score], float]:
    began = time.perf_counter()
    done = work()
    return done, time.perf_counter() - began


def _store(result: Result, folder: Path, part: str = "") -> None:
    """Write result.json, and the numbers per image of one part (`val` or `test`) beside it."""
    if part:
        save_images(folder / f"{part}.npz", (s for s in result.scores if s.name.startswith(part)))
    record = {f.name: getattr(result, f.name) for f in dataclasses.fields(result)}
    record["trial"] = result.trial.flat()
    record["scores"] = [s.record() for s in result.scores]
    record["checks"] = [vars(c) for c in result.checks]
    write_json(folder / "result.json", record)
    if part:
        Ledger(folder / f"measuring-{part}").clear()


def _stored(trial: Trial, folder: Path, data: Data) -> Result | None:
    """What the folder holds of a finished training, or None. Raises `Mistake` where it was on other data."""
    record = read_json(folder / "result.json")
    if record is None or not _intact(folder):
        return None
    try:
        scores = [Score(**s) for s in record["scores"]]
        checks = [Check(**c) for c in record["checks"]]
        result = Result(**{**record, "trial": trial, "scores": scores, "checks": checks})
    except (KeyError, TypeError):
        raise Mistake(
            f"{str(folder / 'result.json')!r} is not a trial's result; remove the folder and it runs again"
        ) from None
    _same_data(result.checksums, trial, folder, data)
    return result


def _intact(folder: Path) -> bool:
    """Whether the weights of a result are what was written; where they are not, both are set aside."""
    weights = folder / "weights.pt"
    try:
        if weights.exists():
            train.load_weights(weights)
        return True
    except Damaged:
        set_aside(weights)
        set_aside(folder / "result.json")
        return False


def _same_data(checksums: dict[str, str], trial: Trial, folder: Path, data: Data) -> None:
    """Raise `Mistake` where the folder's trial was run on other data of the same name."""
    if checksums != data.checksums:
        raise Mistake(
            f"data {trial.data.name!r} has changed since trial {trial.key} was run under {str(folder.parent.parent)!r};"
            " choose another --out"
        )


def machine(device: str) -> dict[str, str]:
    """What the numbers were made on, and by which code."""
    name = (
        torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.processor() or platform.machine()
    )
    return {
        "device": f"{device} ({name})",
        "cpu": torch.backends.cpu.get_cpu_capability(),  # the widest instructions: other ones round sums otherwise
        "threads": str(torch.get_num_threads()),
        "python": platform.python_version(),
        "torch": torch.__version__,
        **provenance.code(),
    }


def main() -> int:
    from harness import cli

    arguments = cli.parser("harness.trial", __doc__, single=True).parse_args()
    space = cli.space(arguments.space)
    place = cli.place(arguments)
    cells = space.cells(cli.overrides(arguments))
    if arguments.cell != "all":
        cells = [cli.chosen(cells, arguments.cell)]
    for cell in cells:
        trial = dataclasses.replace(cell.trial, seed=arguments.seed)
        if not arguments.quiet:
            print(f"{cell.name}: trial {trial.key} on {place.device}, {trial.epochs} epochs", flush=True)
        result = run(trial, place, report=ignore if arguments.quiet else _print_row, test=arguments.test)
        for score in result.scores:
            print(f"  {measuring.line(score)}")
    return 0


def _print_row(row: Row) -> None:
    values = [f"{name} {value:.4f}" for name, value in row.items() if "/" in name]
    print(f"  epoch {row['epoch']:>3}  {row['seconds']:6.2f} s  " + "  ".join(values), flush=True)


if __name__ == "__main__":
    from harness.errors import exit_status

    sys.exit(exit_status(main))
