"""Benchmarks to run on your own machine: ratios from interleaved runs.

    python -m harness.bench epochs                    # an epoch of every method, relative to standard and to pgd
    python -m harness.bench epochs --set model=resnet10 --size 32 --channels 3
    python -m harness.bench sweep                     # a sweep against the same trials run bare

Only ratios are meant to be quoted: absolute times belong to the machine and the hour.
"""

import argparse
import dataclasses
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import methods
from harness import attacks, cli, maps, models, saliency, trial
from harness.batch import MAP_UNIT, Batch, Batches
from harness.config import Trial, build
from harness.errors import Mistake, exit_status
from harness.place import Place
from harness.randomness import seeded
from harness.train import in_bf16, optimiser
from methods.noise import uniform_noise
from methods.pgd import PGD

CLASSES = 10


def step_seconds(
    runs: dict[str, Trial], device: str, shape: tuple[int, int, int], steps: int, rounds: int
) -> dict[str, list[float]]:
    """Seconds per training step of each trial on random images (C, H, W), one figure per round, rounds interleaved."""
    setups = {name: _setup(run, device, shape) for name, run in runs.items()}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for round_ in range(rounds + 1):  # the first one warms up
        for name, advance in setups.items():
            began = time.perf_counter()
            for _ in range(steps if round_ else 1):
                advance()
            if device.startswith("cuda"):
                torch.cuda.synchronize()
            if round_:
                times[name].append((time.perf_counter() - began) / steps)
    return times


def _setup(run: Trial, device: str, shape: tuple[int, int, int]):
    """A function that takes one training step, its batch already on the device."""
    with seeded("bench"):
        x = torch.randint(256, (run.batch, *shape), dtype=torch.uint8, device=device)
        y = torch.randint(CLASSES, (run.batch,), device=device)
        s = (torch.randint(2, x.shape, dtype=torch.int8, device=device) * 2 - 1) * MAP_UNIT
        model = models.build(run.model, shape[0], CLASSES).to(device).train()
    column = (s,) if methods.reads_maps(run.method) else ()
    batches = Batches(x, y, column, run.batch, run.augment)
    steps = optimiser(run.optim, model)

    def advance() -> None:
        for batch in batches.epoch(0, 1):
            with torch.autocast(x.device.type, torch.bfloat16, enabled=in_bf16(run.optim, x.device)):
                loss = torch.stack(list(run.method.loss(model, batch).values())).sum()
            steps.zero_grad()
            loss.backward()
            steps.step()

    return advance


def halves(run: Trial) -> dict[str, tuple[float, Trial]]:
    """The kinds of batch a trial sees, each with its probability: a coin's two sides, or one."""
    flip = getattr(run.method, "flip", None)
    if flip is None:
        return {"": (1.0, run)}
    sides = {"attack": (1 - flip, 0.0), "cheap": (flip, 1.0)}
    return {
        side: (share, dataclasses.replace(run, method=dataclasses.replace(run.method, flip=coin)))
        for side, (share, coin) in sides.items()
    }


@dataclasses.dataclass(frozen=True)
class PublishedPGD(PGD):
    """PGD as the released scripts run it: each attack step also computes the gradients of all parameters."""

    def perturb(self, model: nn.Module, batch: Batch) -> Tensor:
        z = uniform_noise(batch.x, self.eps)
        for _ in range(self.steps):
            z.requires_grad_(True)
            F.cross_entropy(model(z), batch.y).backward()
            z = attacks.clip(z.detach() + self.step * z.grad.sign(), batch.x, self.eps)
        return z


PUBLISHED = "pgd, published loop"


def epochs(
    base: dict[str, object], shape: tuple[int, int, int], device: str, steps: int, rounds: int
) -> dict[str, dict]:
    """Expected seconds of a training step of every method, and its ratio to `standard` and to `pgd`, by round."""
    trials = {name: _for(name, base) for name in methods.names()}
    trials[PUBLISHED] = dataclasses.replace(trials["pgd"], method=PublishedPGD(**vars(trials["pgd"].method)))
    runs, shares = {}, {}
    for name, each in trials.items():
        for side, (share, run) in halves(each).items():
            runs[f"{name} {side}"] = run
            shares[f"{name} {side}"] = (name, share)
    times = step_seconds(runs, device, shape, steps, rounds)
    expected = {
        name: [sum(shares[k][1] * times[k][r] for k in runs if shares[k][0] == name) for r in range(rounds)]
        for name in trials
    }

    def ratio(name: str, other: str) -> list[float]:
        return [a / b for a, b in zip(expected[name], expected[other], strict=True)]

    return {
        name: {"seconds": each, **{f"to {other}": ratio(name, other) for other in ("standard", "pgd", PUBLISHED)}}
        for name, each in expected.items()
    }


def _for(method: str, base: dict[str, object]) -> Trial:
    own = {p: v for p, v in base.items() if not p.startswith("method.") or hasattr(methods.make(method), p[7:])}
    return build({**own, "method": method})


def map_seconds(
    base: dict[str, object], shape: tuple[int, int, int], device: str, rounds: int
) -> dict[str, list[float]]:
    """Seconds per 1,000 maps of every saliency."""
    run = build({**base, "method": "sat"})
    images = min(32, run.batch)  # enough for a rate; integrated gradients take a hundred passes an image
    with seeded("bench"):
        x = torch.rand(images, *shape, device=device)
        y = torch.randint(CLASSES, (images,), device=device)
        net = models.build(run.model, shape[0], CLASSES).to(device).eval()
    times: dict[str, list[float]] = {name: [] for name in saliency.SALIENCY}
    for _ in range(rounds):
        for name in times:
            began = time.perf_counter()
            maps.explain(name, run.maps, net, x, y)
            times[name].append((time.perf_counter() - began) * 1000 / images)
    return times


def epoch_seconds(run: Trial, images: int, shape: tuple[int, int, int], device: str) -> float:
    """The seconds that an epoch over so many images takes, by one step of each kind of batch."""
    sides = halves(run)
    times = step_seconds({side: r for side, (_, r) in sides.items()}, device, shape, 1, 1)
    return sum(share * times[side][0] for side, (share, _) in sides.items()) * images / run.batch


def sweep(space_name: str, trials: int, seeds: int) -> dict[str, float]:
    """Wall seconds of a sweep from its first trial's start to its last trial's end, and of the same trials run bare.

    Bare: as many processes as the sweep has workers, each looping over what is left, with no search, no Ray, no
    tracking. Successive halving is off, so that both run the same epochs.
    """
    from harness import schedule, tune

    with tempfile.TemporaryDirectory() as folder:
        words = [
            "--space",
            space_name,
            "--trials",
            str(trials),
            "--seeds",
            str(seeds),
            "--out",
            f"{folder}/sweep",
            "--quiet",
        ]
        args = tune.arguments(words)
        planned = tune.plan(args)
        planned = dataclasses.replace(planned, space=dataclasses.replace(planned.space, halving=0))
        place = dataclasses.replace(cli.place(args), device="cpu")
        clock = _Clock()
        tune.sweep(planned, place, args, listeners=[clock])
        ran = [json.loads(p.read_text())["trial"] for p in place.out.glob("trials/*/result.json")]
        bare = Place(Path(folder, "bare"), place.data, "cpu").writable()
        # Teachers are trials too, but part of the maps; nobody tunes them.
        seconds = _bare([t for t in ran if build(t).key in clock.keys], clock.repeated, bare, schedule.local_slots(1))
    return {"sweep": clock.seconds, "bare": seconds, "ratio": clock.seconds / seconds, "trials": len(clock.keys)}


class _Clock:
    """Wall seconds from the first start to the last end of a sweep's jobs; which trials ran, which were repetitions."""

    def __init__(self):
        self.began = self.done = 0.0
        self.keys: set[str] = set()
        self.repeated: set[str] = set()

    def started(self, job) -> None:
        self.began = self.began or time.perf_counter()
        self.keys.add(job.trial.key)
        if job.role == "seed":
            self.repeated.add(job.trial.key)

    def heard(self, job, row) -> None:
        pass

    def ended(self, job, outcome) -> None:
        self.done = time.perf_counter()

    @property
    def seconds(self) -> float:
        return self.done - self.began


def _bare(settings: list[dict], tested: set[str], place: Place, workers: int) -> float:
    """Wall seconds of the trials in a shared queue, after every worker has loaded torch and the data."""
    context = multiprocessing.get_context("spawn")
    queue, ready = context.SimpleQueue(), context.Barrier(workers + 1)
    for each in settings:
        queue.put(each)
    for _ in range(workers):
        queue.put(None)
    crew = [context.Process(target=_work, args=(queue, ready, place, tested)) for _ in range(workers)]
    for process in crew:
        process.start()
    ready.wait()
    began = time.perf_counter()
    for process in crew:
        process.join()
    return time.perf_counter() - began


def _work(queue, ready, place: Place, tested: set[str]) -> None:
    torch.set_num_threads(1)
    ready.wait()
    while (settings := queue.get()) is not None:
        run = build(settings)
        trial.run(run, place, test=run.key in tested)


def _figures(values: list[float], unit: str = "") -> str:
    return f"{statistics.median(values):.3g}{unit} ({min(values):.3g} to {max(values):.3g})"


def main() -> int:
    p = argparse.ArgumentParser(
        prog="python -m harness.bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("what", choices=("epochs", "sweep"))
    p.add_argument("--set", action="append", default=[], metavar="PATH=VALUE")
    p.add_argument(
        "--data", default="cifar10", help="whose recipe to time, on random images of --size (default cifar10)"
    )
    p.add_argument("--size", type=int, default=32)
    p.add_argument("--channels", type=int, default=3)
    p.add_argument("--steps", type=int, default=3, help="training steps per method and round")
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--device")
    p.add_argument("--space", default="noise", help="of `sweep`")
    p.add_argument("--trials", type=int, default=8, help="of `sweep`, per cell")
    p.add_argument("--seeds", type=int, default=3, help="of `sweep`, per cell")
    p.add_argument("--json", type=Path, help="also write every figure here")
    args = p.parse_args()
    if min(args.steps, args.rounds, args.size, args.channels) < 1:
        raise Mistake("--steps, --rounds, --size and --channels must be at least 1")
    device = cli.device(args.device)
    print(f"{trial.machine(device)}")
    figures: dict[str, object] = {"machine": trial.machine(device), "arguments": sys.argv[1:]}
    if args.what == "sweep":
        figures["sweep"] = took = sweep(args.space, args.trials, args.seeds)
        print("sweep {sweep:.1f} s, bare {bare:.1f} s, ratio {ratio:.3f}, {trials} trials".format(**took))
    else:
        base, shape = cli.overrides(args), (args.channels, args.size, args.size)
        figures["epochs"] = methods_ = epochs(base, shape, device, args.steps, args.rounds)
        print(f"{'method':<20} {'to standard':<24} {'to pgd':<24} {'to ' + PUBLISHED:<26} images/s")
        batch = build({**base, "method": "standard"}).batch
        for name, each in sorted(methods_.items(), key=lambda item: statistics.median(item[1]["seconds"])):
            rate = [batch / t for t in each["seconds"]]
            ratios = [_figures(each[f"to {other}"]) for other in ("standard", "pgd", PUBLISHED)]
            print("{:<20} {:<24} {:<24} {:<26} {}".format(name, *ratios, _figures(rate)))
        figures["maps"] = columns = map_seconds(base, shape, device, args.rounds)
        print(f"\n{'saliency':<26} seconds per 1,000 maps")
        for name, each in columns.items():
            print(f"{name:<26} {_figures(each)}")
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main))
