"""Whether an exception left this process without a usable GPU, and whether the machine is to blame for it.

After some CUDA errors every later call fails too, in this process only: its context is dead. The error may come late
and by any name, so the device itself is asked. CUDA Runtime API, section "Error Handling" (sticky errors).
"""

from typing import Literal

import torch

Blame = Literal["trial", "machine"] | None
ASSERTION = "device-side assert"  # of a kernel, such as a label beyond the classes: the trial's own fault


def blame(error: Exception, on_gpu: bool) -> Blame:
    """Who is to blame for a dead CUDA context; None if there is none, so that the process can go on.

    on_gpu: whether this process has a GPU.
    """
    if isinstance(error, torch.OutOfMemoryError) or not (on_gpu or isinstance(error, torch.AcceleratorError)):
        return None
    fault = _fault()
    if fault is None:
        return None
    return "trial" if ASSERTION in f"{error} {fault}" else "machine"


def _fault() -> Exception | None:
    """What the device answers if it fails; None if it works."""
    try:
        torch.cuda.synchronize()
    except (RuntimeError, AssertionError) as fault:  # AssertionError: torch has no CUDA
        return fault
    return None
