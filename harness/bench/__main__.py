"""Benchmarks to run on your own machine: ratios from interleaved runs.

    python -m harness.bench epochs                    # an epoch of every method, relative to standard and to pgd
    python -m harness.bench epochs --set model=resnet10 --size 32 --channels 3
    python -m harness.bench sweep                     # a sweep against the same trials run bare
    python -m harness.bench attribution               # IN and K against one image at a time, as published
    python -m harness.bench attribution --data cifar10 --set model=small --set data.limit=8000
    python -m harness.bench evaluation --data cifar10 --images 128    # PGD-10 against other libraries; corruptions
    python -m harness.bench report --runs 1000        # seconds and memory of the report of so many made-up runs
    python -m harness.bench report --runs 1000 --set measure.suites=standard,corruption

Only ratios are meant to be quoted: absolute times belong to the machine and the hour.
"""

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

from harness import cli, corruptions, datasets, measuring, trial
from harness.bench import attribution, epochs, evaluation, report, sweep
from harness.bench.epochs import PUBLISHED
from harness.config import build
from harness.errors import Mistake, exit_status


def _figures(values: list[float], unit: str = "") -> str:
    return f"{statistics.median(values):.3g}{unit} ({min(values):.3g} to {max(values):.3g})"


def main() -> int:
    p = argparse.ArgumentParser(
        prog="python -m harness.bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("what", choices=BENCHMARKS)
    p.add_argument("--set", action="append", default=[], metavar="PATH=VALUE")
    p.add_argument("--data", help="whose recipe to use (default cifar10 of `epochs`, else digits)")
    p.add_argument("--methods", help="of `epochs`: which, joined by commas (default: all of first order)")
    p.add_argument("--size", type=int, default=32, help="of the random images of `epochs`")
    p.add_argument("--channels", type=int, default=3, help="of the random images of `epochs`")
    p.add_argument("--steps", type=int, default=3, help="of `epochs`: training steps per method and round")
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--images", type=int, default=8, help="of `attribution`, `evaluation`: in each round")
    p.add_argument("--space", default="noise", help="of `sweep`")
    p.add_argument("--trials", type=int, default=8, help="of `sweep`, per cell")
    p.add_argument("--seeds", type=int, default=3, help="of `sweep`, per cell")
    p.add_argument("--runs", type=int, default=1000, help="of `report`: about so many")
    p.add_argument("--device")
    p.add_argument("--data-root", type=Path, help="of `attribution`, `evaluation` (default $HARNESS_DATA, else ./data)")
    p.add_argument("--out", type=Path, default=Path("runs"), help="of the same: where its net is or comes")
    p.add_argument("--json", type=Path, help="also write every figure here")
    args = p.parse_args()
    if min(args.steps, args.rounds, args.size, args.channels, args.images, args.runs) < 1:
        raise Mistake("--steps, --rounds, --size, --channels, --images and --runs must be at least 1")
    about = {"machine": trial.machine(cli.device(args.device)), "arguments": sys.argv[1:]}
    print(about["machine"])
    figures = {**about, args.what: BENCHMARKS[args.what](args)}
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1))
    return 0


def time_sweep(args: argparse.Namespace) -> dict:
    took = sweep.sweep(args.space, args.trials, args.seeds)
    print("sweep {sweep:.1f} s, bare {bare:.1f} s, ratio {ratio:.3f}, {trials} trials".format(**took))
    return took


def time_epochs(args: argparse.Namespace) -> dict:
    args.data = args.data or "cifar10"
    device, base, shape = cli.device(args.device), cli.overrides(args), (args.channels, args.size, args.size)
    chosen = args.methods.split(",") if args.methods else None
    timed = epochs.epochs(base, shape, device, args.steps, args.rounds, chosen)
    print(f"{'method':<20} {'to standard':<24} {'to pgd':<24} {'to ' + PUBLISHED:<26} images/s")
    batch = build({**base, "method": "standard"}).batch
    for name, each in sorted(timed.items(), key=lambda item: statistics.median(item[1]["seconds"])):
        rate = [batch / t for t in each["seconds"]]
        ratios = [_figures(each[f"to {other}"]) for other in ("standard", "pgd", PUBLISHED)]
        print("{:<20} {:<24} {:<24} {:<26} {}".format(name, *ratios, _figures(rate)))
    columns = epochs.map_seconds(base, shape, device, args.rounds)
    print(f"\n{'saliency':<26} seconds per 1,000 maps")
    for name, each in columns.items():
        print(f"{name:<26} {_figures(each)}")
    return {"methods": timed, "maps": columns}


def time_report(args: argparse.Namespace) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        took = report.report(args.runs, Path(folder), settings=args.set)
    said = "{runs} runs: {seconds:.1f} s, of them {cpu_seconds:.1f} s of CPU; {peak_mib:.0f} MiB; page {page_mb:.2f} MB"
    print(said.format(**took))
    return took


def _trained(args: argparse.Namespace, suite: str) -> tuple:
    """What is asked for, its data, a net trained for it by the other settings, and the place."""
    args.data = args.data or "digits"
    run = build({"measure.suites": suite, **cli.overrides(args)})
    place = cli.place(args)
    data = datasets.load(run.data, place)
    measuring.check(run, data)
    plain = build({p: v for p, v in cli.overrides(args).items() if not p.startswith(("measure.", "attribution."))})
    model, result = trial.trained(plain, place)
    print(f"trial {plain.key}: {result.score('val/clean').mean:.1%} of the validation images right")
    return run, data, model, place


def time_evaluation(args: argparse.Namespace) -> dict:
    run, data, model, place = _trained(args, "standard")
    eps, steps = max(run.measure.eps), run.measure.steps
    split, count = data.test.to(place.device), len(data.classes)
    how = {"eps": eps, "steps": steps, "images": args.images, "rounds": args.rounds}
    sides, missing = evaluation.side_by_side(model, split, count, **how)
    here = sides[evaluation.HERE]
    figures = {}
    print(f"PGD-{steps} at {255 * eps:.3g}/255, {args.rounds} rounds of {args.images} images: images/s, ratio of ours")
    for name, side in sides.items():
        rate = [args.images / t for t in side.seconds]
        ratio = [theirs / ours for ours, theirs in zip(here.seconds, side.seconds, strict=True)]
        only_they, only_we, p = here.against(side)
        agreed = f"{only_we} images broken here alone, {only_they} there alone (p {p:.2g})"
        left = f"{side.right.float().mean():.1%} right"
        print(f"{name:<32} {_figures(rate):<24} {_figures(ratio):<24} {left}; {agreed if side is not here else ''}")
        figures[name] = {"seconds": side.seconds, "ratio": ratio, "right": float(side.right.float().mean()), "p": p}
    for name in missing:
        print(f"{name:<32} not installed; see harness/bench/peers.py")
    some = split.head(1000)
    each = evaluation.corruption_seconds(some)
    standard = sum(sum(each[name]) for name in corruptions.STANDARD) * 10_000 / len(some)
    what = f"seconds per 10,000 images and severity, by {len(some)}"
    print(f"\n{'corruption':<20} {what}; all 15 x 5: {standard / 60:.1f} minutes")
    for name, seconds in each.items():
        print(f"{name:<20} {_figures([10_000 / len(some) * t for t in seconds])}")
    return {"pgd": figures, "corruptions": each}


def time_attribution(args: argparse.Namespace) -> dict:
    run, data, model, place = _trained(args, "attribution-legacy")
    sides = attribution.side_by_side(model, data.val.to(place.device), run.attribution, args.images, args.rounds)
    faster = [theirs / ours for ours, theirs in zip(sides.ours, sides.theirs, strict=True)]
    print(f"one image at a time {_figures(sides.theirs, ' s')} an image; here {_figures(sides.ours, ' s')}")
    print(f"ratio {_figures(faster)} over {args.rounds} rounds of {args.images} images")
    figures = {"ours": sides.ours, "theirs": sides.theirs, "ratio": faster}
    for column, name in enumerate(("IN", "K")):
        ours, theirs = (100 * v[:, column].mean() for v in (sides.values, sides.values_theirs))
        apart, low, high = (100 * d for d in sides.difference(column))
        print(f"{name} {ours:.2f} here, {theirs:.2f} there: {apart:+.2f}, 95 % interval {low:+.2f} to {high:+.2f}")
        figures[name] = {"ours": ours, "theirs": theirs, "difference": apart, "interval": [low, high]}
    return figures


BENCHMARKS = {
    "epochs": time_epochs,
    "sweep": time_sweep,
    "attribution": time_attribution,
    "evaluation": time_evaluation,
    "report": time_report,
}

if __name__ == "__main__":
    sys.exit(exit_status(main))
