"""Plan a sweep from what it is asked to do: studies, trials, seeds. Everything wrong is refused here."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness import cli
from harness.errors import UserError
from harness.plugins import is_reference, label
from harness.sweep.request import Request

if TYPE_CHECKING:
    from harness.config.space import Cell, NamedSpace, Space
    from harness.storage.workspace import Workspace

# Torch, Ray, Optuna and MLflow are imported later, so that bad arguments fail fast.


@dataclass(frozen=True)
class Plan:
    """A validated sweep. studies: study name -> cell, in the order of the space. named: the space.

    sweep: its id, of the space, the data set, the settings for all cells, and the seed of the search. former_sweep: the
    id by earlier versions, of the studies, so that a cell more made another sweep. space_cells: names of all cells of
    the space, which the chosen ones share the sweep and its report with. settings: those of the sweep, as text; "" for
    the plain command. note: how a cell that is not of the space was made. plugins: pinned references of those
    that it is, and that its cells name.
    """

    request: Request
    named: "NamedSpace"
    studies: dict[str, "Cell"]
    trials: int
    seeds: int
    sweep: str
    former_sweep: str
    space_cells: tuple[str, ...]
    settings: str = ""
    note: str = ""
    plugins: tuple[str, ...] = ()

    @property
    def space(self) -> "Space":
        return self.named.space

    @property
    def data(self) -> str:
        return next(iter(self.studies.values())).data

    @property
    def experiment(self) -> str:
        return f"{self.named.name}-{label(self.data)}"

    def order(self, cell: "Cell") -> int:
        """Position of a cell in the space; a cell that is not of the space comes last."""
        return (*self.space_cells, cell.name).index(cell.name)


def plan(request: Request) -> Plan:
    """Build the plan of a request. Raises `UserError` for an unknown name or invalid value."""
    request.check()
    if request.space is None:
        raise UserError(f"name a space: --space {' | '.join(cli.spaces())}")
    from harness.config import chosen_cells

    named = cli.named_space(request.space) if isinstance(request.space, str) else request.space
    if named.table is not None and named.name in cli.spaces():
        raise UserError(f"the study {named.name!r} has the name of another space; give it one of its own: name = ...")
    space, seed = named.space, request.seed
    chosen = chosen_cells.choose(space, request.cells, request.settings)

    def studies(cells: "list[Cell]") -> "dict[str, Cell]":
        return {f"{named.name}-{label(c.data)}/{c.name} @{space.digest(c)}-{seed}": c for c in cells}

    used = [named.reference, *(plugin for cell in chosen.cells for plugin in cell.plugins())]
    settings = [f"{path}={value}" for path, value in chosen.settings.items()]
    settings += [f"--seed {seed}"] if seed else []
    if named.table is not None:  # as it was read now
        request = dataclasses.replace(request, space=named)
    return Plan(
        request,
        named,
        studies(chosen.cells),
        trials=space.trials if request.trials is None else request.trials,
        seeds=space.seeds if request.seeds is None else request.seeds,
        sweep=_digest(json.dumps([named.name, chosen.cells[0].data, chosen.settings, seed], sort_keys=True)),
        former_sweep=_digest("\n".join(studies(chosen.space_cells))),
        space_cells=tuple(cell.name for cell in chosen.space_cells),
        settings=" ".join(settings),
        note=chosen.note,
        plugins=tuple(dict.fromkeys(filter(is_reference, used))),
    )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def check_data(planned: Plan, workspace: "Workspace") -> None:
    """Decode the data and keep the plug-ins before any worker needs them; check what all cells name and measure."""
    import methods
    from harness.data import datasets
    from harness.evaluation import evaluator
    from harness.models import nets
    from harness.storage import plugin_copies
    from harness.training import training_maps

    plugin_copies.keep(planned.plugins, workspace)
    for cell in planned.studies.values():
        nets.NETS.find(cell.trial.model)
        data = datasets.load(cell.trial.data, workspace)
        if methods.reads_maps(cell.trial.method):
            training_maps.check(cell.trial.maps, data, cell.data)
        evaluator.check(cell.trial.measure, cell.trial.attribution, data, cell.data)
        wanted = (*planned.space.goals, *planned.space.floor)
        evaluator.check_scores(wanted, cell.trial.measure, cell.trial.attribution, data)
