"""Training checkpoints: save and load model, optimiser, weight average and epoch metrics."""

from pathlib import Path

from torch import nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from harness.errors import UserError
from harness.storage import files
from harness.storage.weights import load_weights, save_weights
from harness.training.epoch_metrics import EpochMetrics


def save_checkpoint(
    path: Path, model: nn.Module, optimizer: Optimizer, average: AveragedModel | None, rows: list[EpochMetrics]
) -> None:
    """Write a checkpoint atomically. rows: the metrics of all epochs so far."""
    state = {
        "model": model.state_dict(),
        "optimiser": optimizer.state_dict(),
        "average": average.state_dict() if average else {},
        "rows": rows,
    }
    save_weights(path, state)


def load_checkpoint(
    path: Path, model: nn.Module, optimizer: Optimizer, average: AveragedModel | None
) -> list[EpochMetrics]:
    """Load a checkpoint into model, optimiser and average. Returns the metrics of all epochs so far.

    Without a file they are empty; also for a corrupt file, which is quarantined. Raises `UserError` for a checkpoint of
    another model.
    """
    if not path.exists():
        return []
    try:
        state = load_weights(path)
    except files.CorruptFile:
        files.quarantine(path)
        return []
    try:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimiser"])
        if average:
            average.load_state_dict(state["average"])
        return state["rows"]
    except (KeyError, RuntimeError, ValueError, TypeError):
        raise UserError(f"{str(path)!r} is a checkpoint of another net; remove it and the trial starts again") from None
