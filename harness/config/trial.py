"""Trial: the frozen configuration of one training run and its evaluation, built from dotted paths.

    build({"method": "sat", "data": "digits", "method.alpha10": 0.8})

overrides the data set's defaults with these settings. Spaces, the search and `--set` all use it.
"""

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import methods
from harness.config.dataset_defaults import dataset_defaults
from harness.config.named_settings import pinned, plugins_of
from harness.config.range_checks import check_bounds, declared_types
from harness.config.trial_key import trial_key
from harness.config.values import parse_value
from harness.data.settings import Augment, DataSource
from harness.errors import UserError, nearest
from harness.evaluation import suites
from harness.evaluation.settings import Attribution, Measure
from harness.setting_types import BatchSize, Count, Declared, Seed, is_new
from harness.training.settings import Maps, Optim
from methods import Setting

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_Settings = TypeVar("_Settings", bound="DataclassInstance")


@dataclass(frozen=True)
class Trial:
    """Configuration of one training run and its evaluation. Equal trials have equal keys and are run once."""

    method: methods.Method
    data: DataSource = field(default_factory=DataSource)
    augment: Augment = field(default_factory=Augment)
    model: str = "small"
    normalise: bool = False
    epochs: Count = 10
    batch: BatchSize = 128
    optim: Optim = field(default_factory=Optim)
    maps: Maps = field(default_factory=Maps)
    measure: Measure = field(default_factory=Measure)
    attribution: Attribution = field(default_factory=Attribution)
    seed: Seed = 0

    @functools.cached_property
    def key(self) -> str:
        """Trial key: twelve hex digits of the hash of every setting that can change the numbers."""
        return trial_key(self.identity())

    @property
    def measures_attribution(self) -> bool:
        """Whether one of its suites attacks attributions."""
        return any(suite.attacks_attributions for suite in suites.known(self.measure.suites))

    def flat(self) -> dict[str, Setting]:
        """All settings by dotted path; `maps.*` and `attribution.*` only where the trial uses them."""
        named: dict[str, Setting] = {"method": methods.name(self.method), "data": self.data.name}
        return named | {path: value for path, _, value in self._fields()}

    @property
    def plugins(self) -> list[str]:
        """The pinned references of the plug-ins that its settings name."""
        return plugins_of(self.flat())

    def identity(self) -> dict[str, Setting]:
        """`flat` without the settings that an earlier version did not have, where they have their default."""
        new = {path for path, field, value in self._fields() if is_new(field, value)}
        return {path: value for path, value in self.flat().items() if path not in new}

    def _fields(self) -> "Iterator[tuple[str, dataclasses.Field[Any], Setting]]":
        """Path, field and value of every setting that the trial uses, but for its method and data set."""
        for part in dataclasses.fields(self):
            value = getattr(self, part.name)
            if part.name == "maps" and not methods.reads_maps(self.method):
                continue
            if part.name == "attribution" and not self.measures_attribution:
                continue
            if not dataclasses.is_dataclass(value):
                yield part.name, part, value
                continue
            for inner in dataclasses.fields(value):
                if (path := f"{part.name}.{inner.name}") != "data.name":
                    yield path, inner, getattr(value, inner.name)


def build(settings: Mapping[str, Setting]) -> Trial:
    """Build a trial from dotted paths: the data set's defaults, overridden by `settings`.

    Raises `UserError` for a path that does not exist or a value of the wrong type or range.
    """
    settings = dict(settings)
    method = methods.make(str(pinned("method", parse_value("method", settings.pop("method", "standard"), str))))
    source = str(pinned("data", parse_value("data", settings.pop("data", "digits"), str)))
    trial = Trial(method=method, data=DataSource(name=source))
    for path, value in dataset_defaults(source).items():
        if not path.startswith("method.") or hasattr(method, path.removeprefix("method.")):
            trial = _with_setting(trial, path, value)
    for path, value in settings.items():
        trial = _with_setting(trial, path, value)
    check_bounds(trial)
    return trial


def check_settings_used(trial: Trial, paths: Iterable[str]) -> None:
    """Raise `UserError` for an `attribution.*` path if no suite of the trial attacks attributions."""
    unused = [path for path in paths if path.startswith("attribution.")]
    if unused and not trial.measures_attribution:
        raise UserError(f"{unused[0]} has no effect: name a suite that attacks attributions, such as attribution")


def has_setting(trial: Trial, path: str) -> bool:
    """Whether the trial has a setting at this dotted path."""
    return path in trial.flat()


def declared_type(trial: Trial, path: str) -> Declared:
    """The type of the trial's setting at this dotted path, with what it declares of a number."""
    head, _, leaf = path.partition(".")
    return declared_types(type(getattr(trial, head)))[leaf] if leaf else declared_types(Trial)[head]


def _with_setting(trial: Trial, path: str, value: Setting) -> Trial:
    head, _, leaf = path.partition(".")
    if head not in declared_types(Trial):
        raise _no_field("a trial", head, Trial)
    part: Setting | DataclassInstance = getattr(trial, head)
    if not leaf:
        if dataclasses.is_dataclass(part):
            leaves = ", ".join(f"{head}.{name}" for name in declared_types(type(part)))
            raise UserError(f"{path!r} is a group of settings; name one: {leaves}")
        return _replaced(trial, head, pinned(path, parse_value(path, value, declared_types(Trial)[head])))
    if not dataclasses.is_dataclass(part):
        raise UserError(f"{head!r} is a single setting, {path!r} does not exist")
    if path == "data.name":
        raise UserError("the data set is set by 'data', not by 'data.name'")
    types = declared_types(type(part))
    if leaf not in types:
        raise _no_field(type(part).__name__, leaf, type(part))
    return _replaced(trial, head, _replaced(part, leaf, pinned(path, parse_value(path, value, types[leaf]))))


def _replaced(settings: _Settings, name: str, value: "Setting | DataclassInstance") -> _Settings:
    return dataclasses.replace(settings, **{name: value})


def _no_field(owner: str, name: str, cls: type) -> UserError:
    return UserError(f"{owner} has no {name!r}; {nearest(name, [f.name for f in dataclasses.fields(cls)])}")
