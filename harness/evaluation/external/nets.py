"""Make a net from its name: one of this project, a callable of the user's, or one of timm or transformers."""

import importlib
import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

from harness import plugins
from harness.data.datasets import Data
from harness.errors import UserError, nearest, one_line, unknown_name
from harness.evaluation.external import libraries
from harness.evaluation.external.weights import Say
from harness.models import nets, torchvision_import

# What a callable may name the number of classes.
_CLASSES = ("classes", "num_classes", "num_labels", "n_classes", "nb_classes")


def make(model: str, data: Data, say: Say) -> nn.Module:
    """The net of a name of --model, untrained unless it brings its weights. say: takes a line on its normalisation.

    Raises `UserError` for an unknown name, and for whatever a stranger's code raises.
    """
    if plugins.is_pinned(model):  # of a trial
        return nets.build(model, data.channels, len(data.classes))
    kind, _, name = model.partition(":")
    if not name:
        if model not in nets.NETS:
            error = unknown_name("model", model, nets.NETS)
            raise UserError(f"{error} (a net of your own is named as package.module:callable)")
        return nets.build(model, data.channels, len(data.classes))
    if kind in libraries.KINDS:
        return (libraries.timm_net if kind == "timm" else libraries.hf_net)(name, data, say)
    return _call(_callable(model), model, len(data.classes))


def _callable(model: str) -> Callable[..., Any]:
    """The callable that `package.module:name` names, or `path/to/file.py:name`."""
    assert torchvision_import.torchvision  # before a module that imports it, which alone fails beside a CPU-only torch
    module_name, _, name = model.partition(":")
    if (reference := plugins.Reference.parse(model)) and reference.of_file:
        try:
            found = plugins.load(model)
        except UserError as error:
            raise UserError(f"--model {model}: {error}") from None
        if not callable(found):
            raise UserError(f"--model {model} names a {type(found).__name__}, which cannot be called")
        return found
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # anything that untrusted code raises at import
        raise UserError(f"--model {model}: cannot import {module_name!r}: {one_line(error)}") from None
    found = getattr(module, name, None)
    if not callable(found):
        callables = [n for n, thing in vars(module).items() if callable(thing) and not n.startswith("_")]
        raise UserError(f"--model {model}: {module_name!r} has no callable {name!r}; {nearest(name, callables)}")
    return found


def _call(make: Callable[..., Any], model: str, classes: int) -> nn.Module:
    if isinstance(make, nn.Module):
        return make  # made already, where the module was imported
    try:
        net = make(**{name: classes for name in _names_of_classes(make)[:1]})
    except (Exception, SystemExit) as error:
        raise UserError(f"--model {model}: the call failed: {one_line(error)}") from None
    if not isinstance(net, nn.Module):
        raise UserError(f"--model {model} gave a {type(net).__name__}, not a torch.nn.Module")
    return net


def _names_of_classes(make: Callable[..., Any]) -> list[str]:
    try:
        parameters = inspect.signature(make).parameters
    except (TypeError, ValueError):
        return []
    if str(getattr(make, "__module__", "")).startswith("torchvision."):  # whose functions pass on what they do not name
        return ["num_classes"]
    return [name for name in _CLASSES if name in parameters]
