"""Settings of the training: `optim.*` and `maps.*`; the data set's defaults override those here."""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge

from harness.setting_types import Decay, NonNegative, Positive, Seed, Share


@dataclass(frozen=True)
class Optim:
    """Optimiser, schedule and precision.

    name: `sgd` or `adam`. lr: peak learning rate. schedule: `constant`; `step` multiplies by 0.1 at 50 % and 75 %,
    `cosine` falls to 0, `cyclic` rises for 40 % and falls to 0. Both may be of a plug-in. average: decay of the weight
    average (EMA) that is evaluated (0: none). clip: maximum gradient norm (0: no clipping). precision: `auto` is
    bfloat16 where a GPU supports it, else float32; evaluation is always float32.
    """

    name: str = "sgd"
    lr: Positive = 0.1
    momentum: Decay = 0.9
    weight_decay: NonNegative = 0.0
    schedule: str = "constant"
    average: Decay = 0.0
    clip: NonNegative = 0.0
    precision: Literal["auto", "float32", "bf16"] = "auto"


@dataclass(frozen=True)
class Maps:
    """The map s that saliency-based methods train on; see `harness.training.training_maps`.

    saliency: a method of `harness.explain.maps`, or `box`, `mask`, `random`. teacher: the training method of
    the teacher net. Two of either, joined by "+": one is chosen at random, with equal probability, each epoch. target:
    the class explained.
    binarise: to {-1, 1} by `sign` (`median` for unsigned maps), by the `median` or the `quantile` of each map;
    `minmax` rescales to [0, 1], `none` leaves [-1, 1]. teacher_seed: -1 for a teacher of the trial's own seed, so that
    an interval over seeds includes the teacher's variance; else one teacher of that seed for all. live: compute on each
    augmented batch, as the released code does, rather than once.
    """

    saliency: str = "smoothgrad"
    teacher: str = "standard"
    target: Literal["label", "predicted"] = "label"
    binarise: Literal["sign", "median", "quantile", "minmax", "none"] = "sign"
    quantile: Share = 0.5
    teacher_seed: Annotated[Seed, Ge(-1)] = -1
    live: bool = False
