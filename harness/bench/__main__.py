"""Benchmark command: ratios from interleaved runs on your own machine.

    python -m harness.bench epochs                    # training steps of every method, relative to standard and pgd
    python -m harness.bench epochs --set model=resnet10 --size 32 --channels 3
    python -m harness.bench sweep                     # a sweep compared with the same trials in plain processes
    python -m harness.bench attribution               # IN and K, compared with the released rules; continues
    python -m harness.bench attribution --data cifar10 --set model=small --set data.limit=8000 --sides fast
    python -m harness.bench evaluation --data cifar10 --images 128    # PGD-10 compared with other libraries
    python -m harness.bench report --runs 1000        # seconds and memory of a report of generated runs
    python -m harness.bench report --runs 1000 --set measure.suites=standard,corruption
    python -m harness.bench fleet                     # 1,000 dummy trials: overhead, memory, read time
    python -m harness.bench fleet --trials 200 --declare 200 --cpus 8 --sleep 10    # 25 concurrent trials

Quote ratios only: absolute times depend on the machine and its load.
"""

import argparse
import hashlib
import json
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np

from harness import cli
from harness.arguments import Arguments, number, path, place, whole
from harness.bench import attribution, epochs, evaluation, fleet, report, sweep
from harness.bench.epochs import PUBLISHED
from harness.config.trial import build
from harness.data import datasets
from harness.data.corruptions import names
from harness.errors import UserError, exit_status, required, unknown_name
from harness.evaluation import evaluator
from harness.trials.evaluate_stored import load_trial
from harness.trials.result import describe_machine
from harness.trials.run import trained_model


def _figures(values: list[float], unit: str = "") -> str:
    return f"{statistics.median(values):.3g}{unit} ({min(values):.3g} to {max(values):.3g})"


def main() -> int:
    p = Arguments("harness.bench", __doc__)
    p.add_argument("benchmark", help=" | ".join(BENCHMARKS))
    p.add_argument("--set", action="append", default=[], metavar="PATH=VALUE")
    p.add_argument(
        "--data", help="data set, or the one whose settings are taken (default cifar10 for `epochs`, else digits)"
    )
    p.add_argument("--methods", help="for `epochs`: comma-separated (default: all of first order)")
    p.add_argument(
        "--size", type=whole(1, 4096), default=32, help="for `epochs`: height and width of the random images"
    )
    p.add_argument("--channels", type=whole(1, 1024), default=3, help="for `epochs`: channels of the random images")
    p.add_argument("--steps", type=whole(1), default=3, help="for `epochs`: training steps per method and round")
    p.add_argument("--rounds", type=whole(1), default=5, help="interleaved rounds (default 5)")
    p.add_argument("--images", type=whole(1), default=8, help="for `attribution`, `evaluation`: images per round")
    compared = ",".join(attribution.SIDES)
    p.add_argument("--sides", default=compared, help=f"for `attribution`: comma-separated (default {compared})")
    p.add_argument("--space", default="noise", help="for `sweep` (default noise)")
    p.add_argument("--trials", type=whole(1), help="for `sweep`, per cell (default 8); for `fleet` (default 1000)")
    p.add_argument("--seeds", type=whole(0), default=3, help="for `sweep`, per cell")
    p.add_argument("--runs", type=whole(1), default=1000, help="for `report`: approximate number of runs")
    p.add_argument(
        "--declare", type=whole(1), help="for `fleet`: cores declared to Ray (default: those of the machine)"
    )
    p.add_argument("--cpus", type=number, default=1, help="for `fleet`: cores per trial")
    p.add_argument("--sleep", type=number, default=0, help="for `fleet`: seconds that each trial sleeps")
    p.add_argument("--trial", metavar="KEY", help="for `attribution`, `evaluation`: a trial, whose net is measured")
    p.add_argument("--device")
    p.add_argument(
        "--data-root", type=place, help="for `attribution`, `evaluation` (default $HARNESS_DATA, else ./data)"
    )
    p.add_argument("--out", type=place, default="runs", help="for the same: output folder of the trained net")
    p.add_argument("--json", type=path, help="also write all figures to this file")
    args = p.parse_args()
    if args.benchmark not in BENCHMARKS:
        raise unknown_name("benchmark", args.benchmark, BENCHMARKS)
    for side in args.sides.split(","):
        if side not in attribution.SIDES:
            raise unknown_name("--sides:", side, attribution.SIDES)
    if args.benchmark == "fleet" and args.trials is not None and args.trials < fleet.MIN_TRIALS:
        raise UserError(f"--trials must be at least {fleet.MIN_TRIALS}, not {args.trials}")
    if not 0 < args.cpus < float("inf") or not 0 <= args.sleep < float("inf"):
        raise UserError(f"--cpus must be above 0 and --sleep not negative, not {args.cpus:g} and {args.sleep:g}")
    metadata = {"machine": describe_machine(cli.device(args.device)), "arguments": sys.argv[1:]}
    print(metadata["machine"])
    figures = {**metadata, args.benchmark: BENCHMARKS[args.benchmark](args)}
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1, default=float), encoding="utf-8")
    return 0


def time_sweep(args: argparse.Namespace) -> dict:
    took = sweep.sweep(args.space, args.trials or 8, args.seeds)
    print("sweep {sweep:.1f} s, bare {bare:.1f} s, ratio {ratio:.3f}, {trials} trials".format(**took))
    return took


def time_epochs(args: argparse.Namespace) -> dict:
    args.data = "cifar10" if args.data is None else args.data
    device, base, shape = cli.device(args.device), cli.overrides(args), (args.channels, args.size, args.size)
    chosen = None if args.methods is None else args.methods.split(",")
    timed = epochs.epochs(base, shape, device, args.steps, args.rounds, chosen)
    print(f"{'method':<20} {'to standard':<24} {'to pgd':<24} {'to ' + PUBLISHED:<26} images/s")
    batch = build({**base, "method": "standard"}).batch
    for name, each in sorted(timed.items(), key=lambda item: statistics.median(item[1]["seconds"])):
        rate = [batch / t for t in each["seconds"]]
        ratios = [_figures(each[f"to {other}"]) for other in ("standard", "pgd", PUBLISHED)]
        print("{:<20} {:<24} {:<24} {:<26} {}".format(name, *ratios, _figures(rate)))
    columns = epochs.map_seconds(base, shape, device, args.rounds)
    print(f"\n{'saliency':<26} seconds per 1,000 maps")
    for name, seconds in columns.items():
        print(f"{name:<26} {_figures(seconds)}")
    return {"methods": timed, "maps": columns}


def time_report(args: argparse.Namespace) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        took = report.report(args.runs, Path(folder), settings=cli.overrides(args))
    line = "{runs} runs: {seconds:.1f} s, {cpu_seconds:.1f} CPU seconds; {peak_mib:.0f} MiB; page {page_mb:.2f} MB"
    print(line.format(**took))
    return took


def time_fleet(args: argparse.Namespace) -> dict:
    options = {"declared": args.declare, "cpus": args.cpus, "sleep": args.sleep}
    variants = {"tracked": True} if args.sleep else {"bare": False, "tracked": True}
    with tempfile.TemporaryDirectory() as folder:
        took = {
            name: fleet.fleet(args.trials or 1000, Path(folder, name), **options, tracked=tracked)
            for name, tracked in variants.items()
        }
        read = fleet.read_back(took["tracked"]["uri"], took["tracked"]["experiment"], Path(folder))
    for name, each in took.items():
        print(f"\n{name:<10} {'s/trial':>8} {'loop CPU':>9} {'all CPU':>8} {'peak MiB':>9}")
        for w in each["windows"]:
            row = "{until:>10} {seconds:8.3f} {loop_cpu:9.4f} {process_cpu:8.4f} {peak_mib:9.0f}"
            print(row.format(**w))
        line = "first trial ended after {first:.1f} s, last after {makespan:.1f} s (ideal {ideal:.1f} s)"
        print((line + "; {at_once} of {slots} concurrent").format(**each))
    print("\nall {events} events delivered {behind:.1f} s after the last trial".format(**took["tracked"]))
    line = (
        "{runs} runs read in {read_seconds:.1f} s; report in {seconds:.1f} s, {peak_mib:.0f} MiB, page {page_mb:.2f} MB"
    )
    print(line.format(**read))
    return {**took, "read": read}


def _trained(args: argparse.Namespace, suite: str) -> tuple:
    """The requested measurement settings, data, a trained net, its folder, and the device.

    The net is that of --trial, or trained with the requested settings that are not of measuring.
    """
    workspace = cli.workspace(args)
    if args.trial is not None:
        plain, requested = load_trial(args.trial, workspace), cli.overrides(args)
        run = build({**plain.flat(), "measure.suites": suite, **requested})
    else:
        args.data = "digits" if args.data is None else args.data
        requested = cli.overrides(args)
        run = build({"measure.suites": suite, **requested})
        plain = build({p: v for p, v in requested.items() if not p.startswith(("measure.", "attribution."))})
    data = datasets.load(run.data, workspace)
    evaluator.check(run.measure, run.attribution, data, run.data.name)
    model, result = trained_model(plain, workspace)
    print(
        f"trial {plain.key}: {required(result.score('val/clean'), 'score').mean:.1%} of the validation images correct"
    )
    return run, data, model, workspace.trial(plain.key), workspace.device


def time_evaluation(args: argparse.Namespace) -> dict:
    run, data, model, _, device = _trained(args, "standard")
    eps, steps = max(run.measure.eps), run.measure.steps
    split, count = data.test.to(device), len(data.classes)
    options = {"eps": eps, "steps": steps, "images": args.images, "rounds": args.rounds}
    results, missing = evaluation.compare_pgd(model, split, count, **options)
    harness = results[evaluation.HARNESS]
    figures = {}
    print(
        f"PGD-{steps} at {255 * eps:.3g}/255, {args.rounds} rounds of {args.images} images:"
        " images/s, speed-up of the harness"
    )
    for name, result in results.items():
        rate = [args.images / t for t in result.seconds]
        ratio = [b / a for a, b in zip(harness.seconds, result.seconds, strict=True)]
        only_other, only_harness, p = harness.compare(result)
        differing = f"{only_harness} images fooled by the harness only, {only_other} by {name} only (p {p:.2g})"
        accuracy = float(result.correct.float().mean())
        note = f"{accuracy:.1%} correct; {differing if result is not harness else ''}"
        print(f"{name:<32} {_figures(rate):<24} {_figures(ratio):<24} {note}")
        figures[name] = {"seconds": result.seconds, "ratio": ratio, "right": accuracy, "p": p}
    for name in missing:
        print(f"{name:<32} not installed; see harness/bench/other_libraries.py")
    sample = split.head(1000)
    each = evaluation.corruption_seconds(sample)
    standard = sum(sum(each[name]) for name in names.STANDARD) * 10_000 / len(sample)
    header = f"seconds per 10,000 images and severity, from {len(sample)}"
    print(f"\n{'corruption':<20} {header}; all 15 x 5: {standard / 60:.1f} minutes")
    for name, seconds in each.items():
        print(f"{name:<20} {_figures([10_000 / len(sample) * t for t in seconds])}")
    return {"pgd": figures, "corruptions": each}


def time_attribution(args: argparse.Namespace) -> dict:
    run, data, model, folder, device = _trained(args, "attribution-legacy")
    settings = {path: value for path, value in run.flat().items() if path.startswith("attribution.")}
    named = hashlib.sha256(repr((settings, args.images)).encode()).hexdigest()[:8]
    stored = folder / f"bench-attribution-{named}.jsonl"
    sides = attribution.compare_attribution(
        model, data.val.to(device), run.attribution, args.images, args.rounds, stored, args.sides.split(",")
    )
    print(f"{'side':<18} {'seconds/image':<24} {'speed-up':<24} {'IN':<36} K")
    figures: dict = {}
    for name, side in sides.items():
        of = attribution.reference(name)
        speedup = [b / a for a, b in zip(side.seconds, sides[of].seconds, strict=True)]
        means, gaps = 100 * np.nanmean(side.values, 0), 100 * side.compared(sides[of])
        texts = [
            f"{m:.2f}: {d:+.2f} ({low:+.2f} to {high:+.2f})" for m, (d, low, high) in zip(means, gaps, strict=True)
        ]
        in_and_k = f"{texts[0]:<36} {texts[1]}" if name != of else f"{means[0]:<36.2f} {means[1]:.2f}"
        print(f"{name:<18} {_figures(side.seconds):<24} {_figures(speedup):<24} {in_and_k}")
        figures[name] = {"seconds": side.seconds, "ratio": speedup, "mean": means.tolist(), "gap": gaps.tolist()}
    images = len(next(iter(sides.values())).values)
    print(f"{images} images; in brackets the 95 % interval of the difference, paired by image. Stored in {stored}")
    return {"images": images, **figures}


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
