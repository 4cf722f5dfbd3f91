"""Evaluator: runs the measurements of a suite on a split, batch by batch, and returns their scores.

    evaluate(model, split, measure, name="val") -> [Score]

Scores hold one number per image, for standard errors, paired tests and worst cases. `measurements.py` defines them.
"""

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from harness.data import datasets
from harness.data.corruptions import published_files, registry
from harness.data.datasets import Data, Split
from harness.errors import UserError, nearest
from harness.evaluation import attribution_protocols, suites, versions
from harness.evaluation.batching import chunk_size, image_seeds, to_batch
from harness.evaluation.measurements import (
    Combined,
    EvaluationContext,
    Items,
    Measurement,
    MetricFunction,
    Published,
    ScoreValues,
    accuracy,
)
from harness.evaluation.metrics import UNKNOWN
from harness.evaluation.score_name import ScoreName
from harness.evaluation.scores import Ledger, Score
from harness.evaluation.settings import Attribution, Measure
from harness.explain import curvature
from harness.explain.maps import MAPS
from harness.models import freezing
from harness.models.feature_layer import WithFeatureLayer
from harness.models.nets import Net
from harness.models.relus import softened
from harness.randomness import PerImageRng, full_float32, seeded

Progress = Callable[[int, int, str], None]


def check(measure: Measure, attribution: Attribution, data: Data, name: str) -> None:
    """Raise `UserError` if the data set lacks what a suite needs, before training starts."""
    suite = suites.combined(measure.suites)
    chosen = suites.known(measure.suites)
    for needy in (s for s in chosen if s.needs_annotations and data.val.boxes is None and data.val.masks is None):
        raise UserError(f"suite {needy.name!r} needs boxes or masks, which data {name!r} does not have")
    if any(s.attacks_attributions for s in chosen):
        attribution_protocols.check(attribution, len(data.classes), *data.val.x.shape[-2:])
    suite(EvaluationContext(measure, attribution, data.val.shape))


def check_scores(names: Iterable[str], measure: Measure, attribution: Attribution, data: Data) -> None:
    """Raise `UserError` for a name of a score that no suite gives, such as a misspelt goal, before training starts.

    Only names of no metric, and other strengths of an attack, are told for sure: how a measurement calls the scores
    that it gives is seen when it runs. So nothing is said of suites of plug-ins.
    """
    if not set(measure.suites) <= set(suites.SUITES):
        return
    given = suites.combined(measure.suites)(EvaluationContext(measure, attribution, data.val.shape))
    attacks = {parsed.metric for parsed in map(ScoreName.parse, given) if parsed.strength is not None}
    for name in names:
        parsed = ScoreName.parse(name)
        unsure = parsed.about is not UNKNOWN and (parsed.strength is None or parsed.metric not in attacks)
        if not unsure and str(parsed.on("")) not in given:
            known = [str(ScoreName.parse(key).on(parsed.split)) for key in given]
            raise UserError(f"no suite of {', '.join(measure.suites)} measures {name!r}; {nearest(name, known)}")


def check_net(model: nn.Module, measure: Measure, attribution: Attribution, split: Split) -> None:
    """Raise `UserError` if the net lacks what a suite needs, before anything is measured. split: of it a few images."""
    if not any(s.attacks_attributions for s in suites.known(measure.suites)):
        return
    if not has_features(model) and (needing := [name for name in attribution.maps if MAPS[name].of_features]):
        layers = [name for name, module in model.named_modules() if name and isinstance(module, nn.Conv2d)]
        raise UserError(
            f"attribution.maps={needing[0]} needs the last feature layer of the net; name it, such as"
            f" --features {layers[-1] if layers else 'LAYER'}"
        )
    some = to_batch(split.head(curvature.IMAGES))
    with freezing.frozen(model), full_float32():
        curvature.check_curvature(softened(model, attribution.beta), some.x, some.y)


def published(measure: Measure, name: str, split: Split, root: Path) -> Published | None:
    """Files of a published corrupted test set under the data root; None if absent, resized, or not in the suites.

    split: all test images, or the first of them. Raises `UserError` for files of other images.
    """
    folder = published_files.find(name, root)
    if folder is None or not any(s.corrupts for s in suites.known(measure.suites)):
        return None
    order = datasets.test_order(folder.n)[: len(split)]
    folder.check(split.y.cpu().numpy(), order)
    # Opens every file: a truncated one raises here, not after an hour.
    sizes = {folder.images(name, 1).shape[1:3] for name in folder.corruptions if name in registry.CORRUPTIONS}
    return Published(folder, order) if sizes <= {tuple(split.x.shape[2:])} else None


def context_of(
    measure: Measure,
    attribution: Attribution | None,
    split: Split,
    *,
    features: bool,
    published: Published | None = None,
) -> EvaluationContext:
    """What a suite needs to know of the settings, the images of a split, and the net."""
    return EvaluationContext(
        measure,
        attribution or Attribution(),
        split.shape,
        boxes=split.boxes is not None,
        masks=split.masks is not None,
        features=features,
        published=published,
    )


def has_features(model: nn.Module) -> bool:
    """Whether a net has known final feature maps."""
    return isinstance(model, (Net, WithFeatureLayer))


def no_progress(done: int, of: int, key: str) -> None:
    """No-op progress callback."""


def evaluate(
    model: nn.Module,
    split: Split,
    measure: Measure,
    attribution: Attribution | None = None,
    *,
    name: str,
    suite: Callable[[EvaluationContext], Items] | None = None,
    val: Split | None = None,
    published: Published | None = None,
    seed: int = 0,
    ledger: Ledger | None = None,
    progress: Progress = no_progress,
) -> list[Score]:
    """Evaluate a suite on a split: all scores, named `name/...`. suite: by default the suites of `measure`.

    Each measurement and each image has its own random numbers: other measurements, batch size and order change no
    score. The model is in evaluation mode during the call, and restored. val: the validation images, if the split is
    another; thresholds are chosen on them. published: files of a corrupted test set, in the order of the split. ledger:
    measurements in it are not repeated. progress(done, of, key): callback before each measurement.
    """
    suite = suite or suites.combined(measure.suites)
    context = context_of(measure, attribution, split, features=has_features(model), published=published)
    items, ledger = suite(context), ledger or Ledger()
    run = _Evaluation(model, split, val, name, seed)
    scores: dict[str, Score] = {}
    with freezing.frozen(model), full_float32():
        for done, (key, item) in enumerate(items.items()):
            if isinstance(item, Combined):
                continue
            progress(done, len(items), key)
            results, version = ledger.read(key), versions.version(item)
            if results is None or any(score.version < version for score in results):
                # For code that uses the global generator, such as a stochastic net.
                with seeded(seed, key, device=split.x.device):
                    results = [replace(score, version=version) for score in run.measure(key, item, scores)]
                ledger.write(key, results)
            scores |= {str(ScoreName.parse(s.name).on("")): s for s in results}
    for key, item in items.items():
        if isinstance(item, Combined) and all(of in scores for of in item.of):
            scores[key] = _combined(name, key, item, scores)
    return list(scores.values())


def _combined(split: str, key: str, item: Combined, scores: Mapping[str, Score]) -> Score:
    values = {of: torch.from_numpy(scores[of].per_example) for of in item.of}
    protocol = {f"{item.reduction} of": [scores[of].name for of in item.of]}
    combined = Score.of(f"{split}/{key}", item(values), {**protocol, **item.protocol})
    return replace(combined, version=max(scores[of].version for of in item.of))


@dataclass
class _Evaluation:
    """Shared state of the measurements of one evaluation."""

    model: nn.Module
    split: Split
    val: Split | None
    name: str
    seed: int

    @functools.cached_property
    def seeds(self) -> Tensor:
        return image_seeds(self.split)

    @functools.cached_property
    def correct(self) -> Tensor:
        """Indices (n,) of correctly classified images, computed once for all measurements of attributions."""
        return self._run_in_batches("clean", accuracy, self.split, self.seeds)["clean"].nonzero().squeeze(1)

    def measure(self, key: str, item: Measurement, scores: Mapping[str, Score]) -> list[Score]:
        """Scores of one measurement. scores: the earlier ones, by key."""
        n, device = len(self.split), self.split.x.device
        split = self.split if item.replacement is None else replace(self.split, x=item.replacement().to(device))
        index, default, counts = torch.arange(n, device=device), torch.nan, {}
        if item.images is not None:
            index = self.correct[: item.images or None]
            seen = int(index[-1]) + 1 if len(index) < len(self.correct) else n
            counts = {"wrong": seen - len(index)}
        elif item.only_correct_after:
            index, default = (
                torch.from_numpy(scores[item.only_correct_after].per_example).to(device).nonzero().squeeze(1),
                0.0,
            )
        if len(index):
            values = self._run_in_batches(key, item.metric, split.at(index), self.seeds[index])
        else:  # no image: run one for the names of the scores, and drop its values
            values = self._run_in_batches(key, item.metric, split.head(1), self.seeds[:1])
            values = {score: v[:0] for score, v in values.items()}
        if item.postprocess:
            metric = item.val_metric or item.metric
            val = self._run_in_batches(key, metric, self.val, image_seeds(self.val)) if self.val else None
            values = item.postprocess(values, val)
        results = []
        for score, v in values.items():
            per_example = torch.full((n,), default, device=device)
            per_example[index] = v.to(device).float()
            if item.is_similarity:
                counts |= {"dropped": int(v.isnan().sum()), "failed": int((v >= 1).sum())}
            results.append(Score.of(f"{self.name}/{score}", per_example, dict(item.protocol), dict(counts)))
        return results

    def _run_in_batches(self, key: str, metric: MetricFunction, split: Split, seeds: Tensor) -> ScoreValues:
        """Run a metric on all images in batches: one tensor (n, ...) per score. seeds: of the images (n,)."""
        draws = PerImageRng(seeds, (self.seed, key))
        parts, first, size = [], 0, chunk_size(split.x)
        while first < len(split):
            index, part = slice(first, first + size), None
            try:
                part = metric(self.model, to_batch(split.at(index), draws.select(index)))
            except torch.OutOfMemoryError:
                if size == 1:
                    raise
            if part is None:  # outside the handler, whose traceback holds the tensors
                size = -(-size // 2)
                torch.cuda.empty_cache()
                continue
            parts.append(part if isinstance(part, dict) else {key: part})
            first += size
        return {score: torch.cat([part[score] for part in parts]) for score in parts[0]}


def format_score(score: Score) -> str:
    """A score as one line for a terminal, in the unit of its metric, with the numbers of images not counted."""
    counts = ", ".join(f"{count} {what}" for what, count in score.counts.items() if count)
    about = ScoreName.parse(score.name).about
    scale, sign = about.unit.scale, " %" if about.is_share else ""
    figure = f"{scale * score.mean:6.2f} ± {scale * score.stderr:.2f}{sign}"
    return f"{score.name:<32} {figure:<18} n = {score.n}{f' ({counts})' if counts else ''}"
