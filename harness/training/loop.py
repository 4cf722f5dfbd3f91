"""Training loop with checkpoints, a weight average (EMA), bfloat16 and exact resumption."""

import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import methods
from harness.data.batches import Batches
from harness.errors import Diverged
from harness.randomness import seeded
from harness.training.checkpoint import load_checkpoint, save_checkpoint
from harness.training.epoch_metrics import EpochMetrics
from harness.training.optim import lr_factor, optimiser
from harness.training.precision import uses_bf16
from harness.training.settings import Optim


def fit(
    model: nn.Module,
    method: methods.Method,
    batches: Batches,
    optim: Optim,
    epochs: int,
    *,
    seed: int,
    checkpoint: Path,
    watch: Callable[[nn.Module, int], EpochMetrics],
    report: Callable[[EpochMetrics], None],
) -> tuple[nn.Module, list[EpochMetrics]]:
    """Train a model, resuming from its checkpoint if there is one; on a CPU the weights are then bit for bit the same.

    Callbacks after each epoch: watch(model, epochs done) returns the validation metrics, then the checkpoint is
    written, then report(row) receives the epoch's losses and metrics; after a resumption earlier rows are reported
    again. Each epoch has its own seed, so the checkpoint holds no generator state. Returns the model to evaluate (the
    weight average if there is one) and all rows. Raises `Diverged` at the first loss that is not finite.
    """
    average = None
    if optim.average:
        average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(optim.average), use_buffers=True)
    optimizer = optimiser(optim, model)
    result = average.module if average else model
    rows = load_checkpoint(checkpoint, model, optimizer, average)
    for row in rows:
        report(row)
    for epoch in range(len(rows), epochs):
        began = time.perf_counter()
        with seeded(seed, "epoch", epoch, device=batches.x.device):
            terms = _epoch(model, method, batches, optim, optimizer, average, epoch, epochs)
        seconds = time.perf_counter() - began
        rows.append({"epoch": epoch + 1, "seconds": seconds, **terms, **watch(result, epoch + 1)})
        save_checkpoint(checkpoint, model, optimizer, average, rows)
        report(rows[-1])
    return result, rows


def _epoch(
    model: nn.Module,
    method: methods.Method,
    batches: Batches,
    optim: Optim,
    optimizer: Optimizer,
    average: AveragedModel | None,
    epoch: int,
    epochs: int,
) -> EpochMetrics:
    """Train one epoch. Returns the mean of each loss term over the images, as `train/NAME`."""
    device = batches.x.device
    bf16 = uses_bf16(optim, device)
    # Reading a loss synchronises with the GPU; on a CPU it is free.
    check_every = 1 if device.type == "cpu" else 50
    sums: dict[str, Tensor] = {}
    count = 0
    model.train()
    for i, batch in enumerate(batches.epoch(epoch, epochs)):
        for group in optimizer.param_groups:
            group["lr"] = optim.lr * lr_factor(optim.schedule, batch.epoch / epochs)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            terms = method.loss(model, batch)
        loss = torch.stack(list(terms.values())).sum()
        value = float(loss.detach()) if i % check_every == 0 else 0.0
        if not math.isfinite(value):
            raise Diverged(f"the loss became {value} in epoch {epoch + 1}, batch {i + 1}")
        optimizer.zero_grad()
        loss.backward()
        if optim.clip:
            nn.utils.clip_grad_norm_(model.parameters(), optim.clip)
        optimizer.step()
        if average:
            average.update_parameters(model)
        for name, term in terms.items():
            sums[name] = sums.get(name, 0) + term.detach() * len(batch)
        count += len(batch)
    means = {f"train/{name}": float(total) / count for name, total in sums.items()}
    if not all(math.isfinite(m) for m in means.values()):
        raise Diverged(f"the loss was not finite in epoch {epoch + 1}")
    return means
