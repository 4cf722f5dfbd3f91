"""After which exceptions a worker ends, and who is to blame. The GPU is made up: what it answers when asked."""

import pytest
import torch

from harness.sweep import device_loss

ILLEGAL = "CUDA error: an illegal memory access was encountered"
ASSERT = "CUDA error: device-side assert triggered"
MEMORY = "CUDA error: out of memory"


@pytest.mark.parametrize(
    "error, answer, blamed",
    [
        (torch.AcceleratorError(ILLEGAL), torch.AcceleratorError(ILLEGAL), "machine"),
        (torch.AcceleratorError(ASSERT), torch.AcceleratorError(ASSERT), "trial"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), torch.AcceleratorError(ILLEGAL), "machine"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED"), torch.AcceleratorError(ASSERT), "trial"),
        (ZeroDivisionError("after an error that came late"), torch.AcceleratorError(ILLEGAL), "machine"),
        (RuntimeError("No CUDA GPUs are available"), RuntimeError("No CUDA GPUs are available"), "machine"),
        (torch.AcceleratorError(MEMORY), None, None),
        (torch.AcceleratorError("CUDA error: invalid argument"), None, None),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), None, None),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), None, None),
    ],
)
def test_the_device_is_asked(error, answer, blamed, monkeypatch):
    def synchronize():
        if answer:
            raise answer

    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    assert device_loss.blame(error, on_gpu=True) == blamed


def test_no_trial_on_the_cpu_has_lost_a_gpu():
    assert device_loss.blame(RuntimeError("mat1 and mat2 shapes cannot be multiplied"), on_gpu=False) is None
    assert device_loss.blame(MemoryError(), on_gpu=False) is None
