"""Benchmarks to run on your own machine: ratios from interleaved runs.

    python -m harness.bench epochs                    # an epoch of every method, relative to standard and to pgd
    python -m harness.bench epochs --set model=resnet10 --size 32 --channels 3
    python -m harness.bench sweep                     # a sweep against the same trials run bare
    python -m harness.bench attribution               # IN and K against one image at a time, as published
    python -m harness.bench attribution --data cifar10 --set model=small --set data.limit=8000
    python -m harness.bench evaluation --data cifar10 --images 128    # PGD-10 against other libraries; corruptions
    python -m harness.bench report --runs 1000        # seconds and memory of the report of so many made-up runs
    python -m harness.bench report --runs 1000 --set measure.suites=standard,corruption
    python -m harness.bench fleet                     # 1,000 trials that do nothing: seconds each, memory, reading back
    python -m harness.bench fleet --trials 200 --declare 200 --cpus 8 --sleep 10    # 25 at once, on any machine

Only ratios are meant to be quoted: absolute times belong to the machine and the hour.
"""

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

from harness import cli, corruptions, datasets, measuring, trial
from harness.bench import attribution, epochs, evaluation, fleet, report, sweep
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
    p.add_argument("--trials", type=int, help="of `sweep`, per cell (default 8); of `fleet` (default 1000)")
    p.add_argument("--seeds", type=int, default=3, help="of `sweep`, per cell")
    p.add_argument("--runs", type=int, default=1000, help="of `report`: about so many")
    p.add_argument("--declare", type=int, help="of `fleet`: cores that the machine is said to have (default: its own)")
    p.add_argument("--cpus", type=float, default=1, help="of `fleet`: cores per trial")
    p.add_argument("--sleep", type=float, default=0, help="of `fleet`: seconds that each trial sleeps")
    p.add_argument("--device")
    p.add_argument("--data-root", type=Path, help="of `attribution`, `evaluation` (default $HARNESS_DATA, else ./data)")
    p.add_argument("--out", type=Path, default=Path("runs"), help="of the same: where its net is or comes")
    p.add_argument("--json", type=Path, help="also write every figure here")
    args = p.parse_args()
    if min(args.steps, args.rounds, args.size, args.channels, args.images, args.runs) < 1:
        raise Mistake("--steps, --rounds, --size, --channels, --images and --runs must be at least 1")
    least = {"--trials": fleet.LEAST if args.what == "fleet" else 1, "--declare": 1}
    for word, value in (("--trials", args.trials), ("--declare", args.declare)):
        if value is not None and value < least[word]:
            raise Mistake(f"{word} must be at least {least[word]}, not {value}")
    if not 0 < args.cpus < float("inf") or not 0 <= args.sleep < float("inf"):
        raise Mistake(f"--cpus must be above 0 and --sleep not negative, not {args.cpus:g} and {args.sleep:g}")
    about = {"machine": trial.machine(cli.device(args.device)), "arguments": sys.argv[1:]}
    print(about["machine"])
    figures = {**about, args.what: BENCHMARKS[args.what](args)}
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1))
    return 0


def time_sweep(args: argparse.Namespace) -> dict:
    took = sweep.sweep(args.space, args.trials or 8, args.seeds)
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


def time_fleet(args: argparse.Namespace) -> dict:
    how = {"declared": args.declare, "cpus": args.cpus, "sleep": args.sleep}
    ways = {"tracked": True} if args.sleep else {"bare": False, "tracked": True}
    with tempfile.TemporaryDirectory() as folder:
        took = {
            name: fleet.fleet(args.trials or 1000, Path(folder, name), **how, tracked=t) for name, t in ways.items()
        }
        read = fleet.read_back(took["tracked"]["uri"], took["tracked"]["experiment"], Path(folder))
    for name, each in took.items():
        print(f"\n{name:<10} {'s/trial':>8} {'loop CPU':>9} {'all CPU':>8} {'peak MiB':>9}")
        for w in each["windows"]:
            row = "{until:>10} {seconds:8.3f} {loop_cpu:9.4f} {process_cpu:8.4f} {peak_mib:9.0f}"
            print(row.format(**w))
        said = "first end after {first:.1f} s, last after {makespan:.1f} s (ideal {ideal:.1f} s)"
        print((said + "; {at_once} of {slots} at once").format(**each))
    print("\nthe store had all {events} events {behind:.1f} s after the last trial".format(**took["tracked"]))
    said = (
        "{runs} runs read in {read_seconds:.1f} s; report in {seconds:.1f} s, {peak_mib:.0f} MiB, page {page_mb:.2f} MB"
    )
    print(said.format(**read))
    return {**took, "read": read}


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
    "fleet": time_fleet,
}

if __name__ == "__main__":
    sys.exit(exit_status(main))
