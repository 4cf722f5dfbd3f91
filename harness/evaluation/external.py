"""External models: build by import path or name, load untrusted weights, and validate against the data set."""

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

from harness.data.datasets import Data
from harness.errors import UserError, nearest, one_line, unknown_name
from harness.evaluation.batching import to_batch
from harness.models import nets
from harness.models.feature_layer import WithFeatureLayer
from harness.models.freezing import frozen
from harness.storage import npz
from harness.storage.weights import load_weights

_WRAPPERS = (
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "ema",
    "average",
)  # keys under which checkpoints store weights


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


def load_external(
    model: str, weights: Path | None, data: Data, device: str = "cpu", features: str | None = None
) -> nn.Module:
    """Build an external model, load its weights, and check it. Returns it in evaluation mode, on the device.

    model: a name of `harness.models.nets`, or `package.module:callable`, which is called without arguments, or with
    `classes` if it accepts that, and returns a module from images in [0, 1] to logits; it normalises images itself.
    weights: a state dict or checkpoint written by `torch.save`, or a .safetensors file; None if the model has weights.
    features: the name of its last feature layer, for class activation maps. Raises `UserError` for a model or weights
    that do not load, or do not fit the data, and for another number of images than a net takes.
    """
    net = _build(model, data)
    if weights:
        _load_weights(net, weights)
    net = net.to(device)
    try:
        net = net.eval()
    except NotImplementedError:  # by a program of torch.export, which has no other mode
        net = FixedMode(net).eval()
    _check_output(net, model, data, device)
    _check_other_numbers_of_images(net, model, data, device)
    if features is not None:
        net = WithFeatureLayer(net, features)
        with frozen(net):
            net.features_and_logits(to_batch(data.val.head(2).to(device)).x)
    return net


def load_untrusted_weights(file: Path) -> dict:
    """Load an untrusted `torch.save` file: tensors and plain values only, without executing pickled code.

    Raises `UserError` for any other file, and for a compressed zip (a zip bomb): torch does not compress.
    """
    try:
        grows = npz.unpacked_size(file) > 2 * file.stat().st_size
    except (OSError, zipfile.BadZipFile):
        grows = False  # legacy format or no checkpoint: left to the loader
    if grows:
        raise UserError(f"{str(file)!r} is a packed zip file, not a checkpoint")
    return load_weights(file, hint="")


def fingerprint(net: nn.Module, data: Data, device: str = "cpu") -> str:
    """Hash of a net's weights and of its logits on some images, to distinguish nets of the same name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(net.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    with frozen(net), torch.no_grad():
        logits = net(to_batch(data.val.head(8).to(device)).x)
    digest.update(repr([f"{value:.2g}" for value in logits.flatten().tolist()]).encode())
    return digest.hexdigest()[:16]


def _build(model: str, data: Data) -> nn.Module:
    if ":" not in model:
        if model not in nets.NETS:
            error = unknown_name("model", model, nets.NETS)
            raise UserError(f"{error} (a net of your own is named as package.module:callable)")
        return nets.build(model, data.channels, len(data.classes))
    module_name, _, name = model.partition(":")
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # anything that untrusted code raises at import
        raise UserError(f"--model {model}: cannot import {module_name!r}: {one_line(error)}") from None
    make = getattr(module, name, None)
    if not callable(make):
        callables = [n for n, thing in vars(module).items() if callable(thing) and not n.startswith("_")]
        raise UserError(f"--model {model}: {module_name!r} has no callable {name!r}; {nearest(name, callables)}")
    try:
        net = make(classes=len(data.classes)) if _takes_classes(make) else make()
    except (Exception, SystemExit) as error:
        raise UserError(f"--model {model}: the call failed: {one_line(error)}") from None
    if not isinstance(net, nn.Module):
        raise UserError(f"--model {model} gave a {type(net).__name__}, not a torch.nn.Module")
    return net


def _takes_classes(make: Callable) -> bool:
    try:
        return "classes" in inspect.signature(make).parameters
    except (TypeError, ValueError):
        return False


def _load_weights(net: nn.Module, file: Path) -> None:
    saved = _read_safetensors(file) if file.suffix == ".safetensors" else load_untrusted_weights(file)
    state = _state_dict(saved, file)
    own = net.state_dict()
    missing, extra = own.keys() - state.keys(), state.keys() - own.keys()
    resized = [name for name in own.keys() & state.keys() if own[name].shape != state[name].shape]
    if missing or extra:
        what = f"lacks {min(missing)!r}" if missing else f"has {min(extra)!r}, which the net has not"
        count = f"{len(missing)} of {len(own)} tensors missing, {len(extra)} too many"
        raise UserError(f"{str(file)!r} holds the weights of another net: it {what} ({count})")
    if resized:
        name = min(resized)
        shapes = f"{tuple(state[name].shape)}, the net's is {tuple(own[name].shape)}"
        raise UserError(f"{str(file)!r} holds the weights of another net: {name!r} is {shapes}")
    net.load_state_dict(state)


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file by name; the format holds no code."""
    try:
        return load_file(file)
    except OSError as error:
        raise UserError(f"cannot read {str(file)!r}: {error.strerror or one_line(error)}") from None
    except SafetensorError as error:
        raise UserError(f"{str(file)!r} is not a safetensors file: {one_line(error)}") from None


def _state_dict(saved: object, file: Path) -> dict[str, Tensor]:
    """The state dict in a loaded checkpoint, without the `module.` prefix of DataParallel."""
    for wrapper in _WRAPPERS:
        if isinstance(saved, Mapping) and isinstance(saved.get(wrapper), Mapping) and saved[wrapper]:
            saved = saved[wrapper]
    if not isinstance(saved, Mapping) or not all(isinstance(v, Tensor) for v in saved.values()) or not saved:
        raise UserError(f"{str(file)!r} holds no weights (a dict of names and tensors)")
    prefixed = all(name.startswith("module.") for name in saved)
    return {name.removeprefix("module.") if prefixed else name: value for name, value in saved.items()}


def _check_output(net: nn.Module, model: str, data: Data, device: str) -> None:
    """Raise `UserError` unless the net maps images to finite (B, classes) logits and has a gradient."""
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


def _check_other_numbers_of_images(net: nn.Module, model: str, data: Data, device: str) -> None:
    """Raise `UserError` unless the net takes one image, and three, as it takes two.

    Attacks go on with the images that are left, and the last batch of a split may have any number of them.
    """
    for n in (1, 3):
        x = to_batch(data.val.head(n).to(device)).x
        try:
            with frozen(net), torch.no_grad():
                net(x)
        except Exception as error:
            images = f"{len(x)} image{'s' * (len(x) > 1)}"
            raise UserError(
                f"--model {model} takes 2 images, but not {images}; the harness passes any number: {one_line(error)}"
            ) from None
