"""Nets of timm and of Hugging Face's transformers, from local files, with the input normalisation that they publish.

    timm:NAME        timm's architecture of that name; its weights come from --weights, none are fetched
    hf:FOLDER        a folder as `save_pretrained` writes it: config.json, model.safetensors, preprocessor_config.json

Both expect normalised images, so the net is wrapped to take images in [0, 1]. Nothing is asked of the network, and no
code of a folder is run.
"""

import importlib
import math
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from harness.data.datasets import Data
from harness.errors import UserError, nearest, one_line, shown
from harness.evaluation.external.weights import Say
from harness.models import torchvision_import

KINDS = ("timm", "hf")


class Normalised(nn.Module):
    """A net that takes images in [0, 1]: `model` of (x - mean) / std, per channel."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.model = model
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, x: Tensor) -> Any:
        return self.model((x - self.mean) / self.std)


def timm_net(name: str, data: Data, say: Say) -> Normalised:
    """timm's architecture `name`, such as `resnet18` or `resnet18.a1_in1k`, without weights, for the data's classes.

    Raises `UserError` for an unknown name, one of a hub, and data of other channels than its mean and deviation.
    """
    timm = _installed("timm", "timm")
    architecture = name.partition(".")[0]
    if ":" in name or "/" in name:
        raise UserError(f"--model timm:{name} would be fetched; name an architecture of timm and a file by --weights")
    if not timm.is_model(architecture):
        raise UserError(f"timm has no {shown(name)}; {nearest(architecture, timm.list_models())}")
    try:
        net = timm.create_model(name, pretrained=False, num_classes=len(data.classes), in_chans=data.channels)
    except Exception as error:
        raise UserError(f"--model timm:{name} cannot be built: {one_line(error)}") from None
    published = timm.data.resolve_model_data_config(net)
    return _normalised(net, f"timm:{name}", published["mean"], published["std"], data, say)


def hf_net(folder: str, data: Data, say: Say) -> Normalised:
    """The image classifier in a folder of Hugging Face's transformers, with its weights (safetensors only).

    Raises `UserError` for a name of the hub, a folder without one of its files, weights that lack a tensor, a
    preparation of images other than by mean and deviation, and classes in another order than the data's.
    """
    model = f"--model hf:{folder}"
    if not Path(folder).is_dir():
        raise UserError(f"{model}: {shown(folder)} is no folder here, and nothing is fetched; download it first")
    transformers = _installed("transformers", "hf")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    local = {"local_files_only": True, "trust_remote_code": False}
    try:
        images = transformers.AutoImageProcessor.from_pretrained(folder, **local)
        net, loaded = transformers.AutoModelForImageClassification.from_pretrained(
            folder, **local, use_safetensors=True, output_loading_info=True
        )
    except Exception as error:
        raise UserError(f"{model} cannot be loaded from its files alone: {one_line(error)}") from None
    if lacking := sorted(str(name) for kind in ("missing_keys", "mismatched_keys") for name in loaded[kind]):
        raise UserError(f"{model} lacks weights of its net: {lacking[0]} ({len(lacking)} in all)")
    _check_preparation(images, model)
    _check_order([str(net.config.id2label[i]) for i in sorted(net.config.id2label)], data, model)
    if not getattr(images, "do_normalize", False):
        say(f"hf:{folder}: images in [0, 1], as its preprocessor_config.json normalises none")
        return Normalised(net, [0.0] * data.channels, [1.0] * data.channels)
    return _normalised(net, f"hf:{folder}", images.image_mean, images.image_std, data, say)


def _check_preparation(images: Any, model: str) -> None:
    """Raise `UserError` unless pixels are only scaled to [0, 1], and normalised: the net would be measured wrongly."""
    scale = images.rescale_factor if getattr(images, "do_rescale", False) else None
    if scale is None or not math.isclose(scale, 1 / 255, rel_tol=1e-3) or getattr(images, "rescale_offset", False):
        raise UserError(f"{model} scales pixels by {scale}, not by 1/255; wrap it in a module of your own")
    if getattr(images, "do_flip_channel_order", False):
        raise UserError(f"{model} takes BGR images; wrap it in a module of your own")


def _check_order(labels: Sequence[str], data: Data, model: str) -> None:
    ours, theirs = ([name.casefold() for name in names] for names in (data.classes, labels))
    if ours != theirs and sorted(ours) == sorted(theirs):
        first = next(i for i, (one, other) in enumerate(zip(ours, theirs, strict=True)) if one != other)
        raise UserError(
            f"{model} has the data's classes in another order: its class {first} is {labels[first]!r}, the data's"
            f" {data.classes[first]!r}"
        )


def _normalised(net: nn.Module, name: str, mean: Any, std: Any, data: Data, say: Say) -> Normalised:
    means, stds = (
        [float(v) for v in value] if isinstance(value, (list, tuple)) else [float(value)] for value in (mean, std)
    )
    if {len(means), len(stds)} - {1, data.channels}:
        raise UserError(f"--model {name} normalises {len(means)} channels, the data have {data.channels}")
    say(f"{name}: images normalised by its published mean {_text(means)} and standard deviation {_text(stds)}")
    return Normalised(net, means, stds)


def _text(values: Sequence[float]) -> str:
    return " ".join(f"{value:.4g}" for value in values)


def _installed(package: str, extra: str) -> ModuleType:
    assert torchvision_import.torchvision  # first: both import it, which fails beside a CPU-only torch
    try:
        return importlib.import_module(package)
    except ImportError as error:
        why = "is not installed" if error.name == package else f"cannot be imported ({one_line(error)})"
        raise UserError(f"{package} {why}: pip install -c constraints.txt -e .[{extra}]") from None
