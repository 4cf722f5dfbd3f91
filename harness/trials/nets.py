"""The net of a trial: built by its seed, trained, or loaded with stored weights."""

from collections.abc import Callable
from pathlib import Path

from torch import nn

from harness.config.trial import Trial
from harness.data.batches import Batches
from harness.data.datasets import Data
from harness.errors import UserError
from harness.models import nets
from harness.randomness import seeded
from harness.storage.files import CorruptFile, quarantine
from harness.storage.weights import load_weights, save_weights
from harness.storage.workspace import Workspace
from harness.training import loop
from harness.training.epoch_metrics import EpochMetrics
from harness.training.training_maps import MapColumn

WEIGHTS = "weights.pt"  # in a trial's or a teacher's folder
CHECKPOINT = "checkpoint.pt"  # there, until its weights are stored


def no_report(row: EpochMetrics) -> None:
    """No-op epoch callback."""


def no_watch(net: nn.Module, done: int) -> EpochMetrics:
    """Epoch callback that measures nothing."""
    return {}


def initial_net(trial: Trial, data: Data, workspace: Workspace) -> nn.Module:
    """The net before training, on the device."""
    with seeded(trial.seed, "weights"):
        model = nets.build(trial.model, data.channels, len(data.classes))
    if trial.normalise:
        model.normalised_by(*data.statistics())
    return model.to(workspace.device)


def read_weights(folder: Path) -> dict | None:
    """The weights stored in a folder; None for none, or damaged ones, which are quarantined."""
    try:
        return load_weights(folder / WEIGHTS) if (folder / WEIGHTS).exists() else None
    except CorruptFile:
        quarantine(folder / WEIGHTS)
        return None


def load_net(trial: Trial, data: Data, workspace: Workspace, weights: dict) -> nn.Module:
    """The net with these weights, on the device. Raises `UserError` if they do not fit."""
    model = initial_net(trial, data, workspace)
    try:
        model.load_state_dict(weights)
    except (RuntimeError, TypeError, AttributeError):
        raise UserError(
            f"the weights of {trial.key} are not those of a net {trial.model!r};"
            f" remove its folder in {str(workspace.out)!r} and it runs again"
        ) from None
    return model


def train_net(
    trial: Trial,
    data: Data,
    workspace: Workspace,
    folder: Path,
    *,
    maps: tuple[MapColumn, ...] = (),
    watch: Callable[[nn.Module, int], EpochMetrics] = no_watch,
    report: Callable[[EpochMetrics], None] = no_report,
) -> tuple[nn.Module, list[EpochMetrics]]:
    """Train the net of a trial, resuming from the folder's checkpoint, and store its weights there.

    watch, report: see `harness.training.loop.fit`. Returns the net and its rows.
    """
    part = data.train.to(workspace.device)
    net, rows = loop.fit(
        initial_net(trial, data, workspace),
        trial.method,
        Batches(part.x, part.y, maps, trial.batch, trial.augment, trial.data.crop),
        trial.optim,
        trial.epochs,
        seed=trial.seed,
        checkpoint=folder / CHECKPOINT,
        watch=watch,
        report=report,
    )
    save_weights(folder / WEIGHTS, net.state_dict())
    return net, rows
