"""What a sweep is asked to do, by a command line or by Python code: the study, its budget, resources and outputs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from harness.duration import LONGEST
from harness.errors import UserError, shown

if TYPE_CHECKING:
    from harness.config.space import NamedSpace
    from methods import Setting

KEEP = ("winners", "all")  # whose weights stay
LEAST_SHARE = 1e-4  # of a core or a GPU: the unit in which Ray counts them


class WrongOption(UserError):
    """A value that an option does not take. option: its name, as the field of a `Request`."""

    def __init__(self, option: str, message: str):
        super().__init__(message)
        self.option = option


@dataclass(frozen=True)
class Request:
    """A sweep as it is asked for; `harness.sweep.plan.plan` makes a plan of it. None leaves a value to its default.

    space: the name of a module of `search_spaces`, or the space itself. cells: names; none means all. settings: dotted
    path -> value, the data set as `data`. trials: per cell. seeds: per winner. seed: of the search. budget: seconds
    that the sweep may take. stop_after: the search ends when no cell got better in so many of its trials. warm_start:
    an earlier experiment of the output, whose outcomes the search knows. cpus, gpus: of a trial. workers: at most so
    many trials at once. time_limit: seconds after which a trial fails. keep: whose weights stay, `winners` or `all`.
    out, data_root: folders or URIs. register: the MLflow model whose versions winners become. quiet: whether only the
    report is printed.
    """

    space: "str | NamedSpace | None" = None
    cells: tuple[str, ...] = ()
    settings: "Mapping[str, Setting]" = field(default_factory=dict)
    trials: int | None = None
    seeds: int | None = None
    seed: int = 0
    budget: float | None = None
    stop_after: int | None = None
    warm_start: str | None = None
    retry_failed: bool = False
    cpus: float = 1
    gpus: float | None = None
    workers: int | None = None
    time_limit: float | None = None
    device: str | None = None
    address: str | None = None
    data_root: str | None = None
    out: str = "runs"
    keep: str = "winners"
    tracking_uri: str | None = None
    register: str | None = None
    quiet: bool = False

    def check(self) -> None:
        """Raise `WrongOption` for a value that no sweep can have."""
        limit, name = self.time_limit, self.register
        if limit is not None and not 0 < limit <= LONGEST:
            raise WrongOption(
                "time_limit", f"--time-limit must be a number of seconds up to {LONGEST:g}, not {limit:g}"
            )
        if self.keep not in KEEP:
            raise WrongOption("keep", f"--keep takes {' or '.join(KEEP)}, not {shown(self.keep)}")
        if name is not None and (not name.strip() or set(name) & set("/:.%\"'")):
            raise WrongOption(
                "register", f"--register takes the name of a model, without / : . % or quotes, not {shown(name)}"
            )
        self._check_resources()

    def _check_resources(self) -> None:
        if self.cpus == 0:
            raise WrongOption("cpus", "--cpus must be more than 0; a trial needs a share of a core, such as 0.5")
        for name, value in (("cpus", self.cpus), ("gpus", self.gpus)):
            if value is not None and not 0 <= value < float("inf"):
                raise WrongOption(name, f"--{name} must not be negative, not {value:g}")
            if value and value < LEAST_SHARE:
                raise WrongOption(name, f"--{name} must be at least {LEAST_SHARE:g}, not {value:g}")
        gpus, device = self.gpus, self.device
        if gpus is not None and gpus > 1 and gpus % 1:
            raise WrongOption("gpus", f"--gpus above 1 must be a whole number: Ray divides only one GPU; not {gpus:g}")
        if device not in (None, "cpu", "cuda"):
            raise WrongOption(
                "device", f"--device takes cpu or cuda here, not {shown(device)}; Ray chooses among several GPUs"
            )
        if device == "cpu" and gpus:
            raise WrongOption("device", "--device cpu and --gpus contradict each other; leave one out")
