"""Numerical precision of training: bfloat16 or float32."""

import torch

from harness.training.settings import Optim


def uses_bf16(optim: Optim, device: torch.device) -> bool:
    """Whether training steps run in bfloat16 on this device."""
    supported = device.type == "cuda" and torch.cuda.is_bf16_supported()
    return optim.precision == "bf16" or (optim.precision == "auto" and supported)
