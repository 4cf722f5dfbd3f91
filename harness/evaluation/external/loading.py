"""Load a net of another project: make it, load untrusted weights, wrap it to give logits, and try it on the data."""

import hashlib
from pathlib import Path

import torch
from torch import nn

from harness.data.datasets import Data
from harness.errors import UserError
from harness.evaluation.batching import to_batch
from harness.evaluation.external import nets, outputs
from harness.evaluation.external.libraries import Normalised
from harness.evaluation.external.weights import Say, load_into, silent
from harness.models.feature_layer import WithFeatureLayer
from harness.models.freezing import frozen


def load_external(
    model: str,
    weights: Path | None,
    data: Data,
    device: str = "cpu",
    features: str | None = None,
    *,
    key: str | None = None,
    say: Say = silent,
) -> nn.Module:
    """Build an external model, load its weights, and check it. Returns it in evaluation mode, on the device.

    model: a name of `harness.models.nets`; `package.module:callable`, which is called with the number of classes if it
    accepts that, else without arguments; `path/to/file.py:callable`, likewise; `timm:NAME`; or
    `hf:FOLDER`. The net maps images in [0, 1], which it normalises itself, to logits, or to a tuple, dict or object
    with these.
    weights: a state dict or checkpoint written by `torch.save`, or a .safetensors file; None if the model has weights.
    key: of several state dicts in it the one to load. features: the name of the net's last feature layer, for class
    activation maps. say: takes a line on what was interpreted. Raises `UserError` for a model or weights that do not
    load, or do not fit the data, and for another number of images than a net takes.
    """
    if model.startswith("timm:") and not weights:
        raise UserError(f"--model {model} needs --weights FILE: published weights are not fetched")
    if model.startswith("hf:") and weights:
        raise UserError(f"--model {model} has weights of its own; --weights does not go with it")
    net = nets.make(model, data, say)
    wrappers = int(isinstance(net, Normalised))
    if weights:
        load_into(net.model if isinstance(net, Normalised) else net, weights, key, say)
    return checked(net, model, data, device, features, say=say, wrappers=wrappers)


def checked(
    net: nn.Module,
    model: str,
    data: Data,
    device: str = "cpu",
    features: str | None = None,
    *,
    say: Say = silent,
    wrappers: int = 0,
) -> nn.Module:
    """A net as `load_external` returns it. Raises `UserError` as that does, for a net that does not fit the data.

    model: its name in messages. wrappers: the number of modules that already wrap the one whose layers have the names
    of `features`.
    """
    if low := {t.dtype for t in net.parameters() if t.is_floating_point()} - {torch.float32}:
        say(f"--model {model}: {', '.join(sorted(str(d).removeprefix('torch.') for d in low))} made float32")
        net = net.float()
    net = net.to(device)
    try:
        net = net.eval()
    except NotImplementedError:  # by a program of torch.export, which has no other mode
        net, wrappers = outputs.FixedMode(net).eval(), wrappers + 1
    if returned := outputs.returns_more(net, data, device):
        say(f"--model {model} returns a {returned}, of which the logits are taken")
        net, wrappers = outputs.Logits(net).eval(), wrappers + 1
    outputs.check(net, model, data, device)
    if features is not None:
        net = WithFeatureLayer(net, features, prefix="model." * wrappers)
        with frozen(net):
            net.features_and_logits(to_batch(data.val.head(2).to(device)).x)
    return net


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
