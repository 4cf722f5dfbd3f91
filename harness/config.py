"""What a trial is: a frozen, hashed description, built from dotted paths and nothing else.

    build({"method": "sat", "data": "digits", "method.alpha10": 0.8})

lays the settings over the data set's recipe. Spaces, the search, `--set` and the tests all come through here.
"""

import dataclasses
import hashlib
import json
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal, Union, get_args, get_origin, get_type_hints

import methods
from harness.errors import Mistake, nearest, unknown
from harness.recipes import recipe

ATTRIBUTIONS = frozenset({"attribution", "attribution-legacy", "paper-art", "full"})  # suites that attack attributions
UNITLESS = ("_left", "_right", "_slack", "_l2")  # how scores end that are no share and no likeness
PROTOCOL = 2  # goes into every key: raise it when the same settings would give other numbers


@dataclass(frozen=True)
class Source:
    """Which data, and how it is split.

    val: share of the training images held out for validation. split: seed of that split. limit: keep only so many
    images of each part (0: all). size: resize to this height and width (0: as stored). crop: train on random squares
    of this side, measure on the central one (0: on whole images).
    """

    name: str = "digits"
    val: float = 0.2
    split: int = 0
    limit: int = 0
    size: int = 0
    crop: int = 0


@dataclass(frozen=True)
class Augment:
    """pad: random crop after so many pixels of black border. flip: mirror half of the images."""

    pad: int = 0
    flip: bool = False


@dataclass(frozen=True)
class Optim:
    """lr: peak learning rate. average: decay of the running average of the weights that is evaluated (0: none).

    schedule: `step` multiplies by 0.1 at 50 % and 75 %, `cosine` falls to 0, `cyclic` rises for 40 % and falls to 0.
    clip: largest norm of the gradient (0: none). precision: `auto` is bfloat16 where a GPU has it, else float32;
    evaluation is always float32.
    """

    name: Literal["sgd", "adam"] = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 0.0
    schedule: Literal["constant", "step", "cosine", "cyclic"] = "constant"
    average: float = 0.0
    clip: float = 0.0
    precision: Literal["auto", "float32", "bf16"] = "auto"


@dataclass(frozen=True)
class Maps:
    """The map s that saliency-based methods train on; see `harness.maps`.

    saliency: a method of `harness.saliency`, or `box`, `mask`, `random`. teacher: the training method of the net that
    is explained. Two of either, joined by "+", are drawn from by a coin each epoch. target: the class explained.
    binarise: to {-1, 1} by `sign` (as `median` for maps without sign), by the `median` or the `quantile` of each map,
    or stretched to [0, 1] by `minmax`, or left in [-1, 1] by `none`. teacher_seed: -1 for a teacher of the trial's own
    seed, so that an interval over seeds holds the teacher's share; else one teacher of that seed for all. live: compute
    on the augmented batch, as the released code does, instead of once.
    """

    saliency: str = "smoothgrad"
    teacher: str = "standard"
    target: Literal["label", "predicted"] = "label"
    binarise: Literal["sign", "median", "quantile", "minmax", "none"] = "sign"
    quantile: float = 0.5
    teacher_seed: int = -1
    live: bool = False


@dataclass(frozen=True)
class Measure:
    """What is measured, and how robust accuracy is: by PGD at every eps of the grid, in `steps` steps of `step`.

    suites: of `harness.evaluate`, joined by commas; `standard` is clean and robust accuracy. step 0 stands for
    2.5 * eps / steps (Madry's convention). watch: validate every so many epochs, on `images` validation images (0:
    all); the end of a trial is always measured on all of them.
    """

    eps: tuple[float, ...] = (8 / 255,)
    steps: int = 10
    step: float = 0.0
    restarts: int = 1
    watch: int = 1
    images: int = 0
    suites: tuple[str, ...] = ("standard",)


@dataclass(frozen=True)
class Attribution:
    """How attributional robustness is measured by the suites that do; see `harness.attribution`.

    The attack moves a pixel by at most eps, in `steps` steps of `step` (0: eps / 8, which is 1/255 at 8/255), against
    the k most important pixels. images: how many, classified correctly, are attacked (0: all). restarts, maps: of the
    protocol `strong`. points: places at which an attack looks on the way from black (what it finds is scored with a
    hundred). beta: sharpness of the softplus that stands for ReLU while it looks.
    """

    eps: float = 8 / 255
    k: int = 100
    steps: int = 50
    step: float = 0.0
    images: int = 0
    restarts: int = 2
    points: int = 10
    maps: tuple[str, ...] = ("integrated_gradients",)
    beta: float = 50.0

    def __post_init__(self) -> None:
        if self.beta <= 0:
            raise Mistake(f"attribution.beta must be positive, not {self.beta!r}")


@dataclass(frozen=True)
class Trial:
    """One training run and how it is measured. Equal trials have equal keys and are run once."""

    method: methods.Method
    data: Source = field(default_factory=Source)
    augment: Augment = field(default_factory=Augment)
    model: str = "small"
    normalise: bool = False
    epochs: int = 10
    batch: int = 128
    optim: Optim = field(default_factory=Optim)
    maps: Maps = field(default_factory=Maps)
    measure: Measure = field(default_factory=Measure)
    attribution: Attribution = field(default_factory=Attribution)
    seed: int = 0

    @property
    def key(self) -> str:
        """Twelve hex digits of everything that can change the numbers."""
        text = json.dumps({"protocol": PROTOCOL, **self.flat()}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def measures_attribution(self) -> bool:
        """Whether one of its suites attacks attributions."""
        return not ATTRIBUTIONS.isdisjoint(self.measure.suites)

    def flat(self) -> dict[str, object]:
        """Every setting under its dotted path; maps and attribution only where something reads them."""
        flat: dict[str, object] = {"method": methods.name(self.method), "data": self.data.name}
        for part in dataclasses.fields(self):
            value = getattr(self, part.name)
            if part.name == "maps" and not methods.reads_maps(self.method):
                continue
            if part.name == "attribution" and not self.measures_attribution:
                continue
            if dataclasses.is_dataclass(value):
                flat |= {f"{part.name}.{f.name}": getattr(value, f.name) for f in dataclasses.fields(value)}
            else:
                flat[part.name] = value
        del flat["data.name"]
        return flat


def build(settings: Mapping[str, object]) -> Trial:
    """A trial from dotted paths: the data set's recipe, then `settings` over it.

    Raises `Mistake` for a path that does not exist or a value of another type.
    """
    settings = dict(settings)
    method = methods.make(_checked("method", settings.pop("method", "standard"), str))
    source = _checked("data", settings.pop("data", "digits"), str)
    trial = Trial(method=method, data=Source(name=source))
    for path, value in recipe(source).items():
        if not path.startswith("method.") or hasattr(method, path.removeprefix("method.")):
            trial = _replaced(trial, path, value)
    for path, value in settings.items():
        trial = _replaced(trial, path, value)
    _check(trial)
    return trial


def check_read(trial: Trial, paths: Iterable[str]) -> None:
    """Raise `Mistake` for the first of these settings of attributions, if the trial measures none."""
    unread = [path for path in paths if path.startswith("attribution.")]
    if unread and not trial.measures_attribution:
        raise Mistake(f"{unread[0]} has no effect: name a suite that attacks attributions, such as attribution")


def has(trial: Trial, path: str) -> bool:
    """Whether the trial has a setting at this dotted path."""
    return path in trial.flat()


def _replaced(trial: Trial, path: str, value: object) -> Trial:
    head, _, leaf = path.partition(".")
    if head not in {f.name for f in dataclasses.fields(Trial)}:
        raise _no_field("a trial", head, Trial)
    part = getattr(trial, head)
    if not leaf:
        if dataclasses.is_dataclass(part):
            raise Mistake(f"{path!r} is a group of settings; name one: {', '.join(_leaves(head, part))}")
        return dataclasses.replace(trial, **{head: _checked(path, value, _hints(Trial)[head])})
    if not dataclasses.is_dataclass(part):
        raise Mistake(f"{head!r} is a single setting, {path!r} does not exist")
    if path == "data.name":
        raise Mistake("the data set is set by 'data', not by 'data.name'")
    hints = _hints(type(part))
    if leaf not in {f.name for f in dataclasses.fields(part)}:
        raise _no_field(type(part).__name__, leaf, type(part))
    part = dataclasses.replace(part, **{leaf: _checked(path, value, hints[leaf])})
    return dataclasses.replace(trial, **{head: part})


def _leaves(head: str, part: object) -> list[str]:
    return [f"{head}.{f.name}" for f in dataclasses.fields(part)]


def _no_field(owner: str, name: str, cls: type) -> Mistake:
    return Mistake(f"{owner} has no {name!r}; {nearest(name, [f.name for f in dataclasses.fields(cls)])}")


def _hints(cls: type) -> dict[str, object]:
    return get_type_hints(cls)


def _checked(path: str, value: object, kind: object) -> object:
    """`value` as the type `kind`, read from text where it is text; `Mistake` where it does not fit."""
    origin = get_origin(kind)
    if origin is Literal:
        if value not in get_args(kind):
            raise unknown(f"{path}:", value, [str(v) for v in get_args(kind)])
        return value
    if origin in (Union, types.UnionType):
        empty = value is None or (isinstance(value, str) and value.lower() == "none")
        if empty and type(None) in get_args(kind):
            return None
        return _checked(path, value, next(k for k in get_args(kind) if k is not type(None)))
    if origin is tuple:
        items = value.split(",") if isinstance(value, str) else value
        if not isinstance(items, (tuple, list)):
            items = (items,)
        return tuple(_checked(path, item, get_args(kind)[0]) for item in items)
    if kind is bool and isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if kind in (int, float) and isinstance(value, str):
        value = _number(path, value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
        raise Mistake(f"{path} takes {_spoken(kind)}, not {value!r}")
    if kind is float and not abs(value) < float("inf"):
        raise Mistake(f"{path} takes a finite number, not {value!r}")
    return value


def _number(path: str, text: str) -> float | int:
    try:
        number = Fraction(text.replace(" ", ""))
    except (ValueError, ZeroDivisionError):
        try:
            return float(text)
        except ValueError:
            raise Mistake(f"{path} takes a number such as 0.03 or 8/255, not {text!r}") from None
    return int(number) if number.denominator == 1 and "." not in text else float(number)


def _spoken(kind: object) -> str:
    return {int: "a whole number", float: "a number", bool: "true or false", str: "a name"}.get(kind, str(kind))


_AT_LEAST = {
    **dict.fromkeys(("epochs", "steps", "restarts", "watch", "k", "topk", "points", "coarse"), 1),
    **dict.fromkeys(
        ("eps", "step", "beta", "weight", "limit", "size", "crop", "pad", "clip", "split", "weight_decay", "images"), 0
    ),
    **{"batch": 2, "teacher_seed": -1},
}
_SHARES = ("alpha10", "flip", "quantile")  # in [0, 1], ends included
_BELOW_ONE = ("momentum", "average")  # in [0, 1)


def _check(trial: Trial) -> None:
    """Bounds that no type can say, by the last part of a path: the same name has the same bounds everywhere."""
    for path, value in trial.flat().items():
        leaf = path.rpartition(".")[2]
        values = value if isinstance(value, tuple) else (value,)
        if value is None:
            continue
        if leaf in _AT_LEAST and (not values or min(values) < _AT_LEAST[leaf]):
            raise Mistake(f"{path} must be at least {_AT_LEAST[leaf]}, not {value!r}")
        if leaf == "eps" and max(values) > 1:
            raise Mistake(f"{path} is on the [0, 1] scale of pixels, such as 8/255; {value!r} is beyond it")
        if leaf in _SHARES and not 0 <= value <= 1:
            raise Mistake(f"{path} must lie in [0, 1], not {value!r}")
        if leaf in _BELOW_ONE and not 0 <= value < 1:
            raise Mistake(f"{path} must lie in [0, 1), not {value!r}")
    if trial.optim.lr <= 0:
        raise Mistake(f"optim.lr must be positive, not {trial.optim.lr!r}")
    if not 0 < trial.data.val < 1:
        raise Mistake(f"data.val must lie between 0 and 1, not {trial.data.val!r}")
