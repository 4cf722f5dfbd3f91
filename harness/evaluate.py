"""Measure any net: one that was trained here, by its key or as a cell of a space, or somebody else's.

    python -m harness.evaluate --trial 1973b1de3595 --suite full --test          # one that was run, by its key
    python -m harness.evaluate --space attribution --cell art --suite attribution,attribution-legacy
    python -m harness.evaluate --model resnet18 --weights FILE --data cifar10 --suite autoattack --test --images 1000
    python -m harness.evaluate --model package.module:callable --data cifar10 --suite paper-sat --test

What is measured is kept and not measured again; an evaluation that was interrupted goes on where it was. Beside the
scores stands what speaks against them.
"""

import argparse
import dataclasses
import hashlib
import json
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from harness import cli, datasets, foreign, generation, measuring, suites
from harness import trial as trials
from harness.checks import Check
from harness.config import PROTOCOL, Trial, build, check_read
from harness.datasets import Data
from harness.display import Counter
from harness.doubts import doubt
from harness.errors import Mistake, exit_status, unknown
from harness.measuring import Watch, line, silent
from harness.place import Place, read_json, write, write_json
from harness.scores import Ledger, Score, save_images


@dataclass(frozen=True)
class Target:
    """What is measured. about: how to find it again. folder: where its measurements go.

    touch() records that its test images are looked at.
    """

    model: nn.Module
    data: Data
    folder: Path
    about: dict[str, str]
    touch: Callable[[], object]


def recorded(key: str, place: Place) -> Trial:
    """The trial of that key under `place.out`. Raises `Mistake` where there is none, or it is of another version."""
    whole = re.fullmatch("[0-9a-f]{12}", key)  # all else may lead out of the folder
    record = read_json(place.brought(place.trial(key)) / "trial.json") if whole else None
    if record is None:
        raise unknown("trial", key, [p.name for p in (place.out / "trials").glob("*") if p.is_dir()])
    trial = build(record["settings"])
    if trial.key != key:
        raise Mistake(f"trial {key} was run by another version of this harness, whose protocol differed; run it again")
    return trial


def trained(trial: Trial, asked: Trial, place: Place) -> Target:
    """The net that a trial trains, after training it where needed."""
    data = datasets.load(trial.data, place)
    measuring.check(asked, data)
    model, result = trials.trained(trial, place)
    about = {"trial": trial.key}
    return Target(model, data, place.trial(trial.key), about, lambda: trials.touched(result, place))


def brought(model: str, weights: Path | None, asked: Trial, place: Place) -> Target:
    """Somebody else's net. Raises `Mistake` where it does not fit the data."""
    data = datasets.load(asked.data, place)
    measuring.check(asked, data)
    net = foreign.load(model, weights, data, place.device)
    about = {"model": model, "weights": weights.name if weights else "its own"}
    about |= {path: str(value) for path, value in asked.flat().items() if path == "data" or path.startswith("data.")}
    about["fingerprint"] = foreign.fingerprint(net, data, place.device)
    folder = place.out / "evaluations" / _digest({**about, **data.checksums})

    def touch() -> None:
        counted = read_json(folder / "touches.json") or {"touches": 0}
        write_json(folder / "touches.json", {"touches": counted["touches"] + 1})

    return Target(net, data, folder, about, touch)


@dataclass(frozen=True)
class Evaluation:
    """What was measured, what speaks against it, and where it is kept: NAME.json, NAME.npz, NAME-attacked.npz."""

    scores: list[Score]
    checks: list[Check]
    settings: dict[str, object]
    file: Path


def measure(
    target: Target,
    asked: Trial,
    place: Place,
    *,
    split: str,
    images: int = 0,
    other: tuple[str, nn.Module] | None = None,
    watch: Watch = silent,
) -> Evaluation:
    """What `asked` asks for on `val` or `test`, or the first so many images of it; kept under the target.

    other: key and net of another seed, for a check. A measurement on test is recorded as a touch before the first
    image is looked at.
    """
    settings = {path: value for path, value in asked.flat().items() if path.startswith(("measure.", "attribution."))}
    part = getattr(target.data, split).head(images).to(place.device)
    files = None if split == "val" else measuring.published(asked, part, place.data)
    settings["protocol"] = PROTOCOL
    settings |= {"images": images} if len(part) < len(getattr(target.data, split)) else {}
    settings |= {"other": other[0]} if other else {}
    settings |= {"published": [f"{f.name} {f.stat().st_size}" for f in files.folder.files()]} if files else {}
    stem = target.folder / f"evaluation-{split}-{_digest(settings)[:8]}"
    file = stem.with_suffix(".json")
    with place.holding(target.folder):
        if (stored := read_json(file)) is not None:
            scores, checks = [Score(**s) for s in stored["scores"]], [Check(**c) for c in stored["checks"]]
            return Evaluation(scores, checks, {**target.about, **settings}, file)
        if split == "test" and not stem.exists():
            target.touch()
        stem.mkdir(parents=True, exist_ok=True)  # where it is there, an interrupted evaluation goes on
        began = time.perf_counter()
        ledger = Ledger(stem)
        val = None if split == "val" else target.data.val.to(place.device)
        how = {"name": split, "val": val, "published": files, "ledger": ledger, "watch": watch}
        scores = measuring.evaluate(target.model, part, asked.measure, asked.attribution, **how)
        save_images(stem.with_suffix(".npz"), scores)
        examples = stem.with_name(f"{stem.name}-attacked.npz")
        net = other[1] if other else None
        checks = doubt(target.model, part, asked.measure, scores, examples=examples, other=net, expensive=True)
        record = {**target.about, "settings": settings, "seconds": time.perf_counter() - began}
        record |= {"machine": trials.machine(place.device), "checksums": target.data.checksums}
        record |= {"scores": [s.record() for s in scores], "checks": [vars(c) for c in checks]}
        write_json(file, record)
        ledger.clear()
    return Evaluation(scores, checks, {**target.about, **settings}, file)


def drawn(target: Target, place: Place, per_class: int) -> Path:
    """A page of images that the net draws, so many of each class, a row each; see `harness.generation`."""
    train = target.data.train.to(place.device)
    there = sorted(train.y.unique().tolist())
    images = generation.samples(target.model, train, there, per_class)
    file = target.folder / "samples.png"
    write(file, lambda temporary: temporary.write_bytes(generation.grid(images)))
    return file


def tracked(found: Evaluation, extra: list[Path], uri: str, place: Place) -> None:
    """Write it to MLflow's experiment `evaluations`."""
    from harness import deliver, track

    name = f"{found.file.parent.name} {found.file.stem}"
    tags = {"harness.sweep": "evaluations", **track.environment()}
    tracker = track.Tracker(place, "evaluations", tags, f"evaluations-{name.replace(' ', '-')}")
    beside = (found.file, found.file.with_suffix(".npz"), found.file.with_name(f"{found.file.stem}-attacked.npz"))
    files = [file for file in (*beside, *extra) if file.exists()]
    tracker.evaluated(name, found.settings, track.summed(found.scores), found.checks, files)
    deliver.everything(uri, tracker.log, place)


def spoken(checks: list[Check]) -> list[str]:
    """What the checks say, a line for each doubt, then who passed and who could not be asked."""
    lines = [f"doubt: {c.name}: {c.about}" for c in checks if c.passed is False]
    for passed, what in ((True, "checks passed"), (None, "not asked")):
        names = ", ".join(c.name for c in checks if c.passed is passed)
        lines += [f"{what}: {names}"] if names else []
    return lines


def _digest(of: dict[str, object]) -> str:
    return hashlib.sha256(json.dumps(of, sort_keys=True).encode()).hexdigest()[:12]


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    p = cli.parser("harness.evaluate", __doc__, single=True)
    p.set_defaults(space=None)
    p.add_argument("--trial", metavar="KEY", help="a trial under --out, instead of a space and a cell")
    p.add_argument("--model", help="package.module:callable, or a net of harness.models: somebody else's net")
    p.add_argument("--weights", type=Path, metavar="FILE", help="its weights, as torch.save or safetensors wrote them")
    p.add_argument(
        "--suite", default="standard", help=f"some of {', '.join(suites.SUITES)}, joined by commas (default standard)"
    )
    p.add_argument("--other", metavar="KEY", help="a trial of another seed, to check that its images do not transfer")
    p.add_argument("--samples", type=int, default=0, metavar="N", help="also let the net draw N images of every class")
    p.add_argument("--tracking-uri", metavar="URI", help="also write the result to this MLflow store")
    p.add_argument("--images", type=int, default=0, metavar="N", help="measure on the first N images only (0: all)")
    return p.parse_args(words)


def _chosen(args: argparse.Namespace, place: Place) -> tuple[Trial, Trial | None]:
    """What is asked for, and the trial whose net it is asked of, None where that is not of a trial."""
    overrides = cli.overrides(args)
    how = {path: value for path, value in overrides.items() if path.startswith(("measure.", "attribution."))}
    what = {path: value for path, value in overrides.items() if path not in how}
    named = [f"--{n}" for n in ("trial", "space", "model") if getattr(args, n) is not None]
    if len(named) > 1:
        raise Mistake(f"{' and '.join(named)} each name what is measured; give one")
    if args.cell is not None and named and named != ["--space"]:
        raise Mistake(f"--cell is of a space; {named[0]} names what is measured")
    if args.weights and not args.model:
        raise Mistake("--weights needs --model: a net of harness.models, or package.module:callable")
    for name in ("images", "samples"):
        if getattr(args, name) < 0:
            raise Mistake(f"--{name} must be at least 0, not {getattr(args, name)}")
    suite = ",".join(dict.fromkeys(name.strip() for name in args.suite.split(",")))
    if args.model is not None:
        wrong = next((path for path in what if path != "data" and not path.startswith("data.")), None)
        if wrong:
            raise Mistake(f"{wrong} is settled by --model; only data, measure.* and attribution.* can be set")
        trial, asked = None, build({**what, **how, "measure.suites": suite})
    else:
        if args.trial is not None and what:
            raise Mistake(f"{next(iter(what))} is settled by --trial; only measure.* and attribution.* can be set")
        if args.trial is not None:
            trial = recorded(args.trial, place)
        else:
            cell = cli.chosen(cli.space(args.space or "sat").cells(what), args.cell)
            trial = dataclasses.replace(cell.trial, seed=args.seed)
        asked = build({**trial.flat(), "measure.suites": suite, **how})
    check_read(asked, how)
    return asked, trial


def _other(key: str, target: Target, place: Place) -> tuple[str, nn.Module]:
    """The key and the net of another trial on the same data."""
    if key == target.about.get("trial"):
        raise Mistake(f"--other {key} is the trial that is measured; name one of another seed")
    trial = recorded(key, place)
    net, result = trials.trained(trial, place)
    if result.checksums != target.data.checksums:
        raise Mistake(f"--other {key} was trained on data {trial.data.name!r}, other than what is measured")
    return key, net


def main() -> int:
    args = arguments()
    place = cli.place(args)
    asked, trial = _chosen(args, place)
    if not args.quiet:
        print(f"{f'trial {trial.key}' if trial else args.model} ({args.suite}) on {place.device}", flush=True)
    if trial:
        target = trained(trial, asked, place)
    else:
        target = brought(args.model, args.weights, asked, place)
    other = _other(args.other, target, place) if args.other is not None else None
    counter = Counter()
    progress = silent if args.quiet else counter
    split = "test" if args.test else "val"
    found = measure(target, asked, place, split=split, images=args.images, other=other, watch=progress)
    counter.finish()
    for text in (*map(line, found.scores), *spoken(found.checks)):
        print(text)
    pages = [drawn(target, place, args.samples)] if args.samples else []
    for page in pages:
        print(f"samples: {page}")
    if args.tracking_uri:
        tracked(found, pages, args.tracking_uri, place)
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main))
