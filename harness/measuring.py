"""Measure a net: every metric gives one number per image, so that errors, paired tests and worst cases follow.

evaluate(model, split, measure, name="val") -> [Score]
"""

import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from harness import attacks, corrupted, corruptions, datasets, suites
from harness import attribution as attributions
from harness.batch import Batch
from harness.config import UNITLESS, Attribution, Measure, Trial
from harness.datasets import Data, Split
from harness.errors import Mistake
from harness.measurements import Combined, Measurement, Named, Published, Subject, Suite, accuracy
from harness.models import Net
from harness.randomness import Draws, exact, seeded
from harness.scores import Ledger, Score

# Pixels that a net sees at once, which bounds the memory: 256 images of 32 x 32 on a CPU. Where that is too many, half.
PIXELS = {"cpu": 256 * 32 * 32, "cuda": 2048 * 32 * 32}
IMAGES = 256  # at once on a CPU, however small they are

Watch = Callable[[int, int, str], None]


def check(trial: Trial, data: Data) -> None:
    """Raise `Mistake` where the trial asks for a measurement that its data does not allow, before it is trained."""
    suite = suites.named(trial.measure.suites)
    if "localization" in trial.measure.suites and data.val.boxes is None and data.val.masks is None:
        raise Mistake(f"suite 'localization' needs boxes or masks, which data {trial.data.name!r} does not have")
    if trial.measures_attribution:
        attributions.check(trial.attribution, len(data.classes), *data.val.x.shape[-2:])
    suite(Subject(trial.measure, trial.attribution, tuple(data.val.x.shape[1:])))


def published(trial: Trial, split: Split, root: Path) -> Published | None:
    """The published corrupted files of a data set's test images, where they lie under the data root and are asked for.

    split: the test images, whole or the first of them. None, too, where those are resized. Raises `Mistake` for files
    of other images.
    """
    folder = corrupted.find(trial.data.name, root)
    if folder is None or suites.CORRUPTED.isdisjoint(trial.measure.suites):
        return None
    order = datasets.test_order(folder.n)[: len(split)]
    folder.check(split.y.cpu().numpy(), order)
    # A file that is cut short is said at once, and not after an hour.
    sizes = {folder.images(name, 1).shape[1:3] for name in folder.corruptions if name in corruptions.CORRUPTIONS}
    return Published(folder, order) if sizes <= {tuple(split.x.shape[2:])} else None


def silent(done: int, of: int, key: str) -> None:
    """The progress that nobody watches."""


def evaluate(
    model: nn.Module,
    split: Split,
    measure: Measure,
    attribution: Attribution | None = None,
    *,
    name: str,
    suite: Suite | None = None,
    val: Split | None = None,
    published: Published | None = None,
    seed: int = 0,
    ledger: Ledger | None = None,
    watch: Watch = silent,
) -> list[Score]:
    """Every score of the suite (by default those that `measure` names) on a split; their names begin with `name`.

    Each measurement and each image has random numbers of its own: another measurement, another order or size of the
    batches moves no score. The model is in evaluation mode within and as before after. val: the validation images,
    where they are not those of the split; thresholds are taken over from them. published: the files of a corrupted set,
    in the order of the split. ledger: what it holds already is not measured again. watch(done, of, key) hears which
    measurement comes next.
    """
    suite = suite or suites.named(measure.suites)
    subject = Subject(
        measure,
        attribution or Attribution(),
        tuple(split.x.shape[1:]),
        boxes=split.boxes is not None,
        masks=split.masks is not None,
        features=isinstance(model, Net),
        published=published,
    )
    items, ledger = suite(subject), ledger or Ledger()
    run = _Run(model, split, val, name, seed)
    scores: dict[str, Score] = {}
    with attacks.frozen(model), exact():
        for done, (key, item) in enumerate(items.items()):
            if isinstance(item, Combined):
                continue
            watch(done, len(items), key)
            found = ledger.read(key)
            if found is None:
                with seeded(seed, key):  # for what draws from the global generator all the same, such as a random net
                    found = run.measured(key, item, scores)
                ledger.write(key, found)
            scores |= {s.name.partition("/")[2]: s for s in found}
    for key, item in items.items():
        if isinstance(item, Combined) and all(of in scores for of in item.of):
            scores[key] = _combined(f"{name}/{key}", item, scores)
    return list(scores.values())


def _combined(name: str, item: Combined, scores: Mapping[str, Score]) -> Score:
    values = {of: torch.from_numpy(scores[of].per_example) for of in item.of}
    about = {f"{item.how} of": [name.partition("/")[0] + f"/{of}" for of in item.of]}
    return Score.of(name, item(values), {**about, **item.protocol})


@dataclass
class _Run:
    """One evaluation: what all of its measurements share."""

    model: nn.Module
    split: Split
    val: Split | None
    name: str
    seed: int

    @functools.cached_property
    def seeds(self) -> Tensor:
        return seeds(self.split)

    @functools.cached_property
    def right(self) -> Tensor:
        """The images (n,) that are classified correctly: asked by every measurement of attributions, found once."""
        return self._over("clean", accuracy, self.split, self.seeds)["clean"].nonzero().squeeze(1)

    def measured(self, key: str, item: Measurement, scores: Mapping[str, Score]) -> list[Score]:
        """The scores of one measurement. scores: those measured before."""
        n, device = len(self.split), self.split.x.device
        split = self.split if item.instead is None else replace(self.split, x=item.instead().to(device))
        index, elsewhere, counts = torch.arange(n, device=device), torch.nan, {}
        if item.images is not None:
            index = self.right[: item.images or None]
            seen = int(index[-1]) + 1 if len(index) < len(self.right) else n
            counts = {"wrong": seen - len(index)}
        elif item.after:
            index, elsewhere = torch.from_numpy(scores[item.after].per_example).to(device).nonzero().squeeze(1), 0.0
        if len(index):
            values = self._over(key, item.metric, split.at(index), self.seeds[index])
        else:  # of no image: one is asked about all the same, for what the scores are called
            values = self._over(key, item.metric, split.head(1), self.seeds[:1])
            values = {score: some[:0] for score, some in values.items()}
        if item.finish:
            val = self._over(key, item.metric, self.val, seeds(self.val)) if self.val else None
            values = item.finish(values, val)
        found = []
        for score, some in values.items():
            everywhere = torch.full((n,), elsewhere, device=device)
            everywhere[index] = some.to(device).float()
            if item.likeness:
                counts |= {"dropped": int(some.isnan().sum()), "failed": int((some >= 1).sum())}
            found.append(Score.of(f"{self.name}/{score}", everywhere, dict(item.protocol), dict(counts)))
        return found

    def _over(self, key: str, metric, split: Split, own: Tensor) -> Named:
        """What the metric says of the images, one tensor (n, ...) per score. own: the images' seeds."""
        draws = Draws(own, (self.seed, key))
        parts, first, size = [], 0, at_once(split.x)
        while first < len(split):
            some, part = slice(first, first + size), None
            try:
                part = metric(self.model, batch(split.at(some), draws.at(some)))
            except torch.OutOfMemoryError:
                if size == 1:
                    raise
            if part is None:  # out here, where no traceback holds the tensors
                size = -(-size // 2)
                torch.cuda.empty_cache()
                continue
            parts.append(part if isinstance(part, dict) else {key: part})
            first += size
        return {score: torch.cat([part[score] for part in parts]) for score in parts[0]}


def seeds(split: Split) -> Tensor:
    """One seed per image (N,), made of its bytes: the same image has the same random numbers wherever it stands."""
    digests = [hashlib.blake2b(image.tobytes(), digest_size=8).digest() for image in split.x.cpu().numpy()]
    words = np.frombuffer(b"".join(digests), "<u8") >> np.uint64(1)
    return torch.from_numpy(words.astype(np.int64)).to(split.x.device)


def at_once(x: Tensor) -> int:
    """How many images like those of x (N, C, H, W) a net is to see at once."""
    fit = PIXELS.get(x.device.type, PIXELS["cuda"]) // (x.shape[-2] * x.shape[-1])
    return max(1, min(fit, IMAGES) if x.device.type == "cpu" else fit)


def batch(split: Split, draws: Draws | None = None) -> Batch:
    """The images of a split in [0, 1], with their boxes and masks."""
    x = split.x.to(memory_format=torch.channels_last).float().div_(255)
    return Batch(x, split.y, draws=draws, boxes=split.boxes, masks=split.masks)


def chunks(split: Split) -> Iterator[Batch]:
    """The split's images in order, as many together as a net is to see at once."""
    size = at_once(split.x)
    for first in range(0, len(split), size):
        yield batch(split.at(slice(first, first + size)))


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


def line(score: Score) -> str:
    """A score for a terminal: per cent, where it is a share or a likeness, with what was not counted."""
    counts = ", ".join(f"{count} {what}" for what, count in score.counts.items() if count)
    unit = 1 if score.name.endswith(UNITLESS) else 100
    figure = f"{unit * score.mean:6.2f} ± {unit * score.stderr:.2f}{' %' if unit == 100 else ''}"
    return f"{score.name:<32} {figure:<18} n = {score.n}{f' ({counts})' if counts else ''}"
