"""Somebody else's net: made by a callable or by name, with weights from a file, and asked whether it fits the data."""

import hashlib
import importlib
import inspect
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from harness import arrays, models
from harness.attacks import frozen
from harness.datasets import Data
from harness.errors import Mistake, nearest, one_line, unknown
from harness.measuring import batch
from harness.train import load_weights

_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "ema", "average")  # under which checkpoints keep weights


def load(model: str, weights: Path | None, data: Data, device: str = "cpu") -> nn.Module:
    """The net in evaluation mode, on the device.

    model: a name of `harness.models`, or `package.module:callable`, which is called without arguments, or with
    `classes` where it takes that, and gives a module from images in [0, 1] to logits; normalisation is its own affair.
    weights: what `torch.save` wrote, a state dict or a checkpoint that holds one, or a .safetensors file; None for a
    net that has them already.
    Raises `Mistake` for anything that does not fit.
    """
    net = _made(model, data)
    if weights:
        _fill(net, weights)
    net = net.to(device).eval()
    _try(net, model, data, device)
    return net


def weights(file: Path) -> dict:
    """What `torch.save` wrote to a file that comes from elsewhere: tensors and plain values, nothing that could be run.

    Raises `Mistake` for any other file, and for one that unpacks to more than it takes on disk: torch packs nothing.
    """
    try:
        grows = arrays.unpacked(file) > 2 * file.stat().st_size
    except (OSError, zipfile.BadZipFile):
        grows = False  # an old checkpoint, or none: the loader knows
    if grows:
        raise Mistake(f"{str(file)!r} is a packed zip file, not a checkpoint")
    return load_weights(file, hint="")


def fingerprint(net: nn.Module, data: Data, device: str = "cpu") -> str:
    """What tells this net from another of the same name: a hash of its weights and of what it says of some images."""
    digest = hashlib.sha256()
    for name, tensor in sorted(net.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    with frozen(net), torch.no_grad():
        logits = net(batch(data.val.head(8).to(device)).x)
    digest.update(repr([f"{value:.2g}" for value in logits.flatten().tolist()]).encode())
    return digest.hexdigest()[:16]


def _made(model: str, data: Data) -> nn.Module:
    if ":" not in model:
        if model not in models.MODELS:
            mistake = unknown("model", model, models.MODELS)
            raise Mistake(f"{mistake} (a net of your own is named as package.module:callable)")
        return models.build(model, data.channels, len(data.classes))
    place, _, name = model.partition(":")
    try:
        module = importlib.import_module(place)
    except (Exception, SystemExit) as error:  # whatever a stranger's module does at import
        raise Mistake(f"--model {model}: cannot import {place!r}: {one_line(error)}") from None
    make = getattr(module, name, None)
    if not callable(make):
        there = [n for n, thing in vars(module).items() if callable(thing) and not n.startswith("_")]
        raise Mistake(f"--model {model}: {place!r} has no callable {name!r}; {nearest(name, there)}")
    try:
        net = make(classes=len(data.classes)) if _takes_classes(make) else make()
    except (Exception, SystemExit) as error:
        raise Mistake(f"--model {model}: the call failed: {one_line(error)}") from None
    if not isinstance(net, nn.Module):
        raise Mistake(f"--model {model} gave a {type(net).__name__}, not a torch.nn.Module")
    return net


def _takes_classes(make: Callable) -> bool:
    try:
        return "classes" in inspect.signature(make).parameters
    except (TypeError, ValueError):
        return False


def _fill(net: nn.Module, file: Path) -> None:
    saved = _tensors(file) if file.suffix == ".safetensors" else weights(file)
    state = _state(saved, file)
    own = net.state_dict()
    missing, extra = own.keys() - state.keys(), state.keys() - own.keys()
    resized = [name for name in own.keys() & state.keys() if own[name].shape != state[name].shape]
    if missing or extra:
        what = f"lacks {min(missing)!r}" if missing else f"has {min(extra)!r}, which the net has not"
        count = f"{len(missing)} of {len(own)} tensors missing, {len(extra)} too many"
        raise Mistake(f"{str(file)!r} holds the weights of another net: it {what} ({count})")
    if resized:
        name = min(resized)
        shapes = f"{tuple(state[name].shape)}, the net's is {tuple(own[name].shape)}"
        raise Mistake(f"{str(file)!r} holds the weights of another net: {name!r} is {shapes}")
    net.load_state_dict(state)


def _tensors(file: Path) -> dict[str, Tensor]:
    """What a safetensors file holds: tensors by name, and nothing that could be run."""
    try:
        return load_file(file)
    except OSError as error:
        raise Mistake(f"cannot read {str(file)!r}: {error.strerror or one_line(error)}") from None
    except SafetensorError as error:
        raise Mistake(f"{str(file)!r} is not a safetensors file: {one_line(error)}") from None


def _state(saved: object, file: Path) -> dict[str, Tensor]:
    """The weights in what was saved, without the prefix that data parallel training gives them."""
    for wrapper in _WRAPPERS:
        if isinstance(saved, Mapping) and isinstance(saved.get(wrapper), Mapping) and saved[wrapper]:
            saved = saved[wrapper]
    if not isinstance(saved, Mapping) or not all(isinstance(v, Tensor) for v in saved.values()) or not saved:
        raise Mistake(f"{str(file)!r} holds no weights (a dict of names and tensors)")
    whole = all(name.startswith("module.") for name in saved)
    return {name.removeprefix("module.") if whole else name: value for name, value in saved.items()}


def _try(net: nn.Module, model: str, data: Data, device: str) -> None:
    """Raise `Mistake` unless the net gives one logit a class for the data's images, and a gradient."""
    few = batch(data.val.head(2).to(device))
    size, classes, n = "x".join(map(str, few.x.shape[1:])), len(data.classes), len(few.x)
    with frozen(net), torch.enable_grad():
        x = few.x.clone().requires_grad_(True)
        try:
            logits = net(x)
        except Exception as error:
            raise Mistake(f"--model {model} does not take images of {size}: {one_line(error)}") from None
        if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != n:
            shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise Mistake(f"--model {model} gives {shape} for {n} images, not ({n}, {classes}) logits")
        if logits.shape[1] != classes:
            raise Mistake(f"--model {model} has {logits.shape[1]} classes, the data {classes}")
        if not logits.isfinite().all():
            raise Mistake(f"--model {model} gives logits that are not finite")
        try:
            torch.autograd.grad(logits.sum(), x)
        except RuntimeError as error:
            raise Mistake(f"--model {model} has no gradient to attack it by: {one_line(error)}") from None
