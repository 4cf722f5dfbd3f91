"""A net with the name of its last feature layer, for class activation maps of nets that are no `Net`."""

from typing import cast

import torch
from torch import Tensor, nn

from harness.errors import UserError, unknown_name


class WithFeatureLayer(nn.Module):
    """`model`, unchanged, and access to the output of its module `layer`, a dotted name as in `named_modules()`.

    prefix: of the names of the net that `model` wraps, which `layer` lacks. Raises `UserError` for a name that no
    module has.
    """

    def __init__(self, model: nn.Module, layer: str, prefix: str = ""):
        super().__init__()
        modules = {name.removeprefix(prefix) for name, _ in model.named_modules() if name.startswith(prefix)}
        if not layer or layer not in modules:
            raise unknown_name("--features", layer, filter(None, modules))
        self.model, self.layer, self.path = model, layer, prefix + layer

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)

    def features_and_logits(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Feature maps (B, D, h, w) of x, and the logits (B, K) with a graph that begins at them, or at x before them.

        Raises `UserError` if the layer has no part in the forward pass, or its output is of another form. Of a layer
        that is called several times it is the last output.
        """
        outputs: list[Tensor] = []

        def keep(module: nn.Module, inputs: object, output: object) -> Tensor:
            if not isinstance(output, Tensor) or output.dim() != 4 or len(output) != len(x):
                form = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
                raise UserError(
                    f"--features {self.layer} gives {form} for {len(x)} images, not feature maps ({len(x)}, D, h, w)"
                )
            outputs.append(output if output.requires_grad else output.detach().requires_grad_(True))
            return outputs[-1].clone()  # the next layer may work in place

        hook = self.model.get_submodule(self.path).register_forward_hook(keep)
        try:
            with torch.enable_grad():
                logits = cast(Tensor, self.model(x))
        finally:
            hook.remove()
        if not outputs:
            raise UserError(f"--features {self.layer} is not called in the forward pass of {type(self.model).__name__}")
        return outputs[-1], logits
