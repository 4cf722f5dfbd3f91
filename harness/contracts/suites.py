"""What every suite promises of its measurements, on a small net and a few images."""

import copy
from collections.abc import Callable
from functools import partial

import torch

from harness.contracts.promise import Promise, require
from harness.data.datasets import Split
from harness.evaluation import evaluator
from harness.evaluation.measurements import Combined, EvaluationContext
from harness.evaluation.score_name import ScoreName
from harness.evaluation.scores import Score
from harness.evaluation.settings import Attribution, Measure
from harness.evaluation.suites import SUITES
from harness.models import nets

BRIEF = Attribution(k=20, steps=2, images=3, points=2, restarts=1)
MEASURE = Measure(eps=(2 / 255, 8 / 255), steps=3)


def example(n: int = 12) -> tuple[nets.Net, Split]:
    """A net, and images with boxes and masks."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(256, (n, 1, 8, 8), dtype=torch.uint8, generator=generator)
    masks = (x[:, 0] > 127).to(torch.uint8)
    boxes = torch.tensor([[1, 1, 6, 6]] * n, dtype=torch.int16)
    torch.manual_seed(0)
    return nets.build("small", 1, 4).eval(), Split(x, torch.arange(n) % 4, boxes, masks)


def _scores(name: str, net: nets.Net, split: Split) -> dict[str, Score]:
    suite: Callable = partial(SUITES.find(name))
    found = evaluator.evaluate(net, split, MEASURE, BRIEF, name="val", val=split, suite=suite)
    return {score.name.removeprefix("val/"): score for score in found}


def it_gives_a_number_per_image_within_its_unit(name: str) -> None:
    net, split = example()
    found = _scores(name, net, split)
    require(bool(found), f"{name}: measures nothing")
    for key, score in found.items():
        images = score.per_example
        require(images is not None and images.shape == (len(split),), f"{name}: {key} is no number per image (B,)")
        unit = ScoreName.parse(key).about.unit
        inside = not score.n or unit.lowest <= score.mean <= unit.highest
        require(inside, f"{name}: {key} is {score.mean:.4g}, outside the range of its unit, {unit.name}")


def it_says_how_it_measures(name: str) -> None:
    net, split = example()
    for key, score in _scores(name, net, split).items():
        says = f"{name}: {key}: give its `Measurement` a protocol, what its number depends on"
        require(bool(score.protocol) or key == "clean", says)


def its_costs_are_declared(name: str) -> None:
    items = SUITES.find(name)(EvaluationContext(MEASURE, BRIEF, (1, 8, 8)))
    for key, item in items.items():
        if isinstance(item, Combined):
            missing = [of for of in item.of if of not in items]
            require(not missing, f"{name}: {key} is of {missing[0] if missing else ''}, which it does not measure")
        else:
            require(item.passes >= 1, f"{name}: {key} declares no passes")


def it_is_the_same_again_and_leaves_the_net_as_it_was(name: str) -> None:
    net, split = example()
    state = copy.deepcopy(net.state_dict())
    one, two = _scores(name, net, split), _scores(name, net, split)
    for key in one:
        a, b = one[key].mean, two[key].mean
        same = a == b or (a != a and b != b)
        require(same, f"{name}: {key} differs between calls; draw from batch.draws or torch's global generator only")
    same = all(torch.equal(v, state[k]) for k, v in net.state_dict().items())
    require(same and not net.training, f"{name}: changes the net")


CONTRACT: tuple[Promise, ...] = (
    it_gives_a_number_per_image_within_its_unit,
    it_says_how_it_measures,
    its_costs_are_declared,
    it_is_the_same_again_and_leaves_the_net_as_it_was,
)
