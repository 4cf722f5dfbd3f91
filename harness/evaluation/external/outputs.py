"""Logits of nets of other projects, whatever they return, and a trial of a net before anything is measured."""

import contextlib
import traceback
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from harness.data.datasets import Data
from harness.errors import UserError, one_line
from harness.evaluation.batching import chunk_size, to_batch
from harness.models.freezing import frozen


class Logits(nn.Module):
    """The logits of a net that returns more: the first of a tuple or list, `["logits"]` of a dict, or `.logits`."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return _logits_in(self.model(x))


class FixedMode(nn.Module):
    """A net that refuses `train` and `eval`, as a program of `torch.export` does: its mode is part of its graph.

    Modules around such a program have a mode, so each is set by its flag.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def train(self, mode: bool = True) -> "FixedMode":
        for module in self.modules():
            module.training = mode
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


def _logits_in(output: object) -> Tensor:
    """The logits in what a net returns; anything without logits as it is, for `check` to name."""
    if isinstance(output, Mapping) and "logits" in output:
        return output["logits"]
    if not isinstance(output, Tensor) and hasattr(output, "logits"):
        return output.logits
    logits = output[0] if isinstance(output, (tuple, list)) and output else output
    return logits  # type: ignore[return-value]  # of a stranger's net: `check` refuses what is no tensor


def returns_more(net: nn.Module, data: Data, device: str) -> str:
    """What a net returns in place of logits, for `Logits` to take them out; "" if it returns a tensor, or fails."""
    with contextlib.suppress(Exception), frozen(net), torch.no_grad():
        output = net(to_batch(data.val.head(2).to(device)).x)
        return "" if isinstance(output, Tensor) else type(output).__name__
    return ""


def check(net: nn.Module, model: str, data: Data, device: str) -> None:
    """Raise `UserError` unless the net maps any number of images to finite (B, classes) logits with a gradient."""
    _check_output(net, model, data, device)
    _check_numbers_of_images(net, model, data, device)


@contextlib.contextmanager
def failures_of(model: str) -> Iterator[None]:
    """Raise `UserError` in place of an error in a net's forward pass, which is a stranger's: one line, no traceback."""
    try:
        yield
    except (UserError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        frames = [frame.f_locals for frame, _ in traceback.walk_tb(error.__traceback__)]
        passes = [values for values in frames if isinstance(values.get("self"), nn.Module)]
        if not passes:
            raise
        given = passes[0].get("args")  # of torch's own __call__
        images = f" on {len(given[0])} images" if given and isinstance(given[0], Tensor) and given[0].dim() else ""
        raise UserError(f"--model {model} fails{images}: {one_line(error)}") from None


_ROUNDING = 0.02  # of the largest logit, when the batch has another size


def _check_output(net: nn.Module, model: str, data: Data, device: str) -> None:
    sample = to_batch(data.val.head(2).to(device))
    size, classes, n = "x".join(map(str, sample.x.shape[1:])), len(data.classes), len(sample.x)
    with frozen(net), torch.enable_grad():
        x = sample.x.clone().requires_grad_(True)
        try:
            logits = net(x)
        except Exception as error:
            raise UserError(f"--model {model} does not take images of {size}: {one_line(error)}") from None
        if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != n:
            shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise UserError(f"--model {model} gives {shape} for {n} images, not ({n}, {classes}) logits")
        if logits.shape[1] != classes:
            raise UserError(f"--model {model} has {logits.shape[1]} classes, the data {classes}")
        if not logits.isfinite().all():
            raise UserError(f"--model {model} gives logits that are not finite")
        try:
            torch.autograd.grad(logits.sum(), x)
        except RuntimeError as error:
            raise UserError(f"--model {model} has no gradient to attack it by: {one_line(error)}") from None


def _check_numbers_of_images(net: nn.Module, model: str, data: Data, device: str) -> None:
    """One image, three, and a full batch: attacks go on with the images that are left, so any number may come."""
    alone: Tensor | None = None
    for n in (1, 3, chunk_size(data.val.head(1).to(device).x)):
        x = to_batch(data.val.head(n).to(device)).x
        images = f"{len(x)} image{'s' * (len(x) > 1)}"
        try:
            logits = _logits_of(net, x)
        except torch.OutOfMemoryError:
            return  # the evaluator halves its batches
        except Exception as error:
            raise UserError(
                f"--model {model} takes 2 images, but not {images}; the harness passes any number: {one_line(error)}"
            ) from None
        if logits.shape != (len(x), len(data.classes)):
            raise UserError(
                f"--model {model} gives {tuple(logits.shape)} for {images}, not ({len(x)}, {len(data.classes)}) logits"
            )
        if alone is not None and _differ(alone, logits[:1]) and not _differ(logits, _logits_of(net, x)):
            raise UserError(
                f"--model {model} gives an image other logits beside {len(x) - 1} others than alone; build the net"
                " without batch statistics"
            )
        alone = logits if alone is None else alone


def _logits_of(net: nn.Module, x: Tensor) -> Tensor:
    with frozen(net), torch.no_grad():
        return net(x)


def _differ(one: Tensor, other: Tensor) -> bool:
    """Whether logits differ by more than the rounding of another batch size, with room for TF32."""
    return bool((one - other).abs().max() > _ROUNDING * max(one.abs().max(), other.abs().max()))
