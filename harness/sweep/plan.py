"""Validate the command line of a sweep: studies, trials, seeds."""

import hashlib
import json
from argparse import Namespace
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness import cli
from harness.errors import UserError, shown

if TYPE_CHECKING:
    from harness.config.space import Cell, Space
    from harness.storage.workspace import Workspace

KEEP = ("winners", "all")  # whose weights stay
LONGEST = 1e9  # seconds of a time limit: a timer does not take just any number
LEAST_SHARE = 1e-4  # of a core or a GPU: the unit in which Ray counts them

# Torch, Ray, Optuna and MLflow are imported later, so that bad arguments fail fast.


@dataclass(frozen=True)
class Plan:
    """A validated sweep. studies: study name -> cell, in the order of the space.

    sweep: its id, of the space, the data set, the settings for all cells, and the seed of the search. former_sweep: the
    id by earlier versions, of the studies, so that a cell more made another sweep. space_cells: names of all cells of
    the space, which the chosen ones share the sweep and its report with. settings: those of the sweep, as text; "" for
    the plain command. note: how a cell that is not of the space was made.
    """

    space_name: str
    space: "Space"
    studies: dict[str, "Cell"]
    trials: int
    seeds: int
    sweep: str
    former_sweep: str
    space_cells: tuple[str, ...]
    settings: str = ""
    note: str = ""

    @property
    def data(self) -> str:
        return next(iter(self.studies.values())).data

    @property
    def experiment(self) -> str:
        return f"{self.space_name}-{self.data}"

    def order(self, cell: "Cell") -> int:
        """Position of a cell in the space; a cell that is not of the space comes last."""
        return (*self.space_cells, cell.name).index(cell.name)


def plan(args: Namespace) -> Plan:
    """Build the plan from parsed arguments. Raises `UserError` for an unknown name or invalid value."""
    if args.time_limit is not None and not 0 < args.time_limit <= LONGEST:
        raise UserError(f"--time-limit must be a number of seconds up to {LONGEST:g}, not {args.time_limit:g}")
    if args.keep not in KEEP:
        raise UserError(f"--keep takes {' or '.join(KEEP)}, not {shown(args.keep)}")
    if args.register is not None and (not args.register.strip() or set(args.register) & set("/:.%\"'")):
        raise UserError(f"--register takes the name of a model, without / : . % or quotes, not {shown(args.register)}")
    if args.cpus == 0:
        raise UserError("--cpus must be more than 0; a trial needs a share of a core, such as 0.5")
    for name in ("cpus", "gpus"):
        if (value := getattr(args, name)) is not None and not 0 <= value < float("inf"):
            raise UserError(f"--{name} must not be negative, not {value:g}")
        if value and value < LEAST_SHARE:
            raise UserError(f"--{name} must be at least {LEAST_SHARE:g}, not {value:g}")
    if args.gpus is not None and args.gpus > 1 and args.gpus % 1:
        raise UserError(f"--gpus above 1 must be a whole number: Ray divides only one GPU; not {args.gpus:g}")
    if args.device not in (None, "cpu", "cuda"):
        raise UserError(f"--device takes cpu or cuda here, not {shown(args.device)}; Ray chooses among several GPUs")
    if args.device == "cpu" and args.gpus:
        raise UserError("--device cpu and --gpus contradict each other; leave one out")
    if args.space is None:
        raise UserError(f"name a space: --space {' | '.join(cli.spaces())}")
    from harness.config import chosen_cells

    space = cli.space(args.space)
    chosen = chosen_cells.choose(space, args.cell, cli.overrides(args))

    def studies(cells: "list[Cell]") -> "dict[str, Cell]":
        return {f"{args.space}-{c.data}/{c.name} @{space.digest(c)}-{args.seed}": c for c in cells}

    trials = space.trials if args.trials is None else args.trials
    seeds = space.seeds if args.seeds is None else args.seeds
    data = chosen.cells[0].data
    sweep = _digest(json.dumps([args.space, data, chosen.settings, args.seed], sort_keys=True))
    former = _digest("\n".join(studies(chosen.space_cells)))
    names = tuple(cell.name for cell in chosen.space_cells)
    settings = [f"{path}={value}" for path, value in chosen.settings.items()]
    settings += [f"--seed {args.seed}"] if args.seed else []
    text = " ".join(settings)
    return Plan(args.space, space, studies(chosen.cells), trials, seeds, sweep, former, names, text, chosen.note)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def check_data(planned: Plan, workspace: "Workspace") -> None:
    """Decode the data before any worker needs it, and check models, maps and measurements of all cells."""
    import methods
    from harness.data import datasets
    from harness.errors import unknown_name
    from harness.evaluation import evaluator
    from harness.models import nets
    from harness.training import training_maps

    for cell in planned.studies.values():
        if cell.trial.model not in nets.NETS:
            raise unknown_name("model", cell.trial.model, nets.NETS)
        data = datasets.load(cell.trial.data, workspace)
        if methods.reads_maps(cell.trial.method):
            training_maps.check(cell.trial.maps, data, cell.data)
        evaluator.check(cell.trial.measure, cell.trial.attribution, data, cell.data)
