"""The only training loop."""

import io
import math
import time
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import methods
from harness import place
from harness.batch import Batches
from harness.config import Optim
from harness.errors import Diverged, Mistake
from harness.randomness import derive

Row = dict[str, float]


def lr_factor(schedule: str, progress: float) -> float:
    """The learning rate over its peak, at a share of the training in [0, 1)."""
    if schedule == "step":
        return 0.1 ** ((progress >= 0.5) + (progress >= 0.75))
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    if schedule == "cyclic":
        return progress / 0.4 if progress < 0.4 else (1 - progress) / 0.6
    return 1.0


def optimiser(optim: Optim, model: nn.Module) -> torch.optim.Optimizer:
    """SGD with Nesterov's momentum, or Adam with decoupled weight decay (plain Adam where it is 0)."""
    common = {"lr": optim.lr, "weight_decay": optim.weight_decay, "fused": True}
    if optim.name == "adam":
        return torch.optim.AdamW(model.parameters(), **common)
    return torch.optim.SGD(model.parameters(), momentum=optim.momentum, nesterov=optim.momentum > 0, **common)


def in_bf16(optim: Optim, device: torch.device) -> bool:
    """Whether training steps run in bfloat16 on this device."""
    gains = device.type == "cuda" and torch.cuda.is_bf16_supported()
    return optim.precision == "bf16" or (optim.precision == "auto" and gains)


def fit(
    model: nn.Module,
    method: methods.Method,
    batches: Batches,
    optim: Optim,
    epochs: int,
    *,
    seed: int,
    checkpoint: Path,
    watch: Callable[[nn.Module, int], Row],
    report: Callable[[Row], None],
) -> tuple[nn.Module, list[Row]]:
    """Train, and go on from the checkpoint where there is one, to the same weights bit for bit (on a CPU).

    After each epoch: watch(model, epochs done) gives what is measured, the checkpoint is written, and
    report(row) hears the epoch's losses and measurements; rows from before a resumption are reported again. Every epoch
    draws from its own seed, so no generator's state needs keeping. Returns the model to evaluate (the running average
    of the weights where there is one) and all rows. Raises `Diverged` at the first loss that is not finite.
    """
    average = None
    if optim.average:
        average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(optim.average), use_buffers=True)
    steps = optimiser(optim, model)
    result = average.module if average else model
    rows = _resume(checkpoint, model, steps, average)
    for row in rows:
        report(row)
    for epoch in range(len(rows), epochs):
        began = time.perf_counter()
        torch.manual_seed(derive(seed, "epoch", epoch))
        terms = _epoch(model, method, batches, optim, steps, average, epoch, epochs)
        seconds = time.perf_counter() - began
        rows.append({"epoch": epoch + 1, "seconds": seconds, **terms, **watch(result, epoch + 1)})
        _save(checkpoint, model, steps, average, rows)
        report(rows[-1])
    return result, rows


def _epoch(model, method, batches: Batches, optim: Optim, steps, average, epoch: int, epochs: int) -> Row:
    """One pass over the data. Returns the mean of every term of the loss."""
    device = batches.x.device
    bf16 = in_bf16(optim, device)
    # Reading a loss waits for a GPU to finish; on a CPU it is free.
    look_every = 1 if device.type == "cpu" else 50
    sums: dict[str, Tensor] = {}
    count = 0
    model.train()
    for i, batch in enumerate(batches.epoch(epoch, epochs)):
        for group in steps.param_groups:
            group["lr"] = optim.lr * lr_factor(optim.schedule, batch.epoch / epochs)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            terms = method.loss(model, batch)
        loss = torch.stack(list(terms.values())).sum()
        at = float(loss.detach()) if i % look_every == 0 else 0.0
        if not math.isfinite(at):
            raise Diverged(f"the loss became {at} in epoch {epoch + 1}, batch {i + 1}")
        steps.zero_grad()
        loss.backward()
        if optim.clip:
            nn.utils.clip_grad_norm_(model.parameters(), optim.clip)
        steps.step()
        if average:
            average.update_parameters(model)
        for name, term in terms.items():
            sums[name] = sums.get(name, 0) + term.detach() * len(batch)
        count += len(batch)
    means = {f"train/{name}": float(total) / count for name, total in sums.items()}
    if not all(math.isfinite(m) for m in means.values()):
        raise Diverged(f"the loss left the finite numbers in epoch {epoch + 1}")
    return means


def _save(path: Path, model, steps, average, rows: list[Row]) -> None:
    state = {
        "model": model.state_dict(),
        "optimiser": steps.state_dict(),
        "average": average.state_dict() if average else {},
        "rows": rows,
    }
    save_weights(path, state)


def save_weights(path: Path, state: dict) -> None:
    """torch.save, whole or not at all. Raises `Mistake` where it cannot be written."""
    memory = io.BytesIO()  # torch's own writer reports a full disk as an internal error
    torch.save(state, memory)
    place.write(path, lambda temporary: temporary.write_bytes(memory.getbuffer()))


def _resume(path: Path, model, steps, average) -> list[Row]:
    """Load the checkpoint into model, optimiser and average. Returns the rows so far, none where there is no file, or
    a damaged one, which is set aside."""
    if not path.exists():
        return []
    try:
        state = load_weights(path)
    except place.Damaged:
        place.set_aside(path)
        return []
    try:
        model.load_state_dict(state["model"])
        steps.load_state_dict(state["optimiser"])
        if average:
            average.load_state_dict(state["average"])
        return state["rows"]
    except (KeyError, RuntimeError, ValueError, TypeError):
        raise Mistake(f"{str(path)!r} is a checkpoint of another net; remove it and the trial starts again") from None


def load_weights(path: Path, hint: str = "; remove it and its trial starts again") -> dict:
    """What torch saved there, tensors and plain values only, every byte held against its checksum.

    Raises `Damaged` where it is no such file, `Mistake` where it cannot be read.
    """
    try:
        if zipfile.is_zipfile(path):  # as torch saves since 2020; it does not look at the checksums itself
            with zipfile.ZipFile(path) as members:
                if members.testzip():
                    raise zipfile.BadZipFile
        with warnings.catch_warnings(action="ignore"):  # of a file of another kind, which is refused anyway
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise Mistake(f"cannot read {str(path)!r}: {error.strerror}") from None
    except Exception as error:  # unpickling garbled bytes may raise anything
        raise place.Damaged(f"{str(path)!r} is {_instead(path, error)}{hint}") from None


def _instead(path: Path, error: Exception) -> str:
    """What a file is that is no checkpoint."""
    with open(path, "rb") as file:
        begins = file.read(512).lstrip().lower()
    if begins.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "a web page, not a checkpoint"
    return "a damaged zip file" if isinstance(error, zipfile.BadZipFile) else "not a checkpoint"
