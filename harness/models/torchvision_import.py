"""Import torchvision, also beside a CPU-only torch, and what it does not promise. Other modules import it from here.

The PyPI wheel needs, at import, two operators that only its CUDA-matched library defines. With a CPU-only torch they
are missing, so their schemas are declared first; neither is called.
"""

import contextlib
import importlib
from types import ModuleType
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torchvision.datasets import GTSRB

_OPERATORS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_library: torch.library.Library  # the schemas live as long as this object


def _load() -> ModuleType:
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    global _library
    _library = torch.library.Library("torchvision", "FRAGMENT")
    for schema in _OPERATORS.values():
        with contextlib.suppress(RuntimeError):  # already defined
            _library.define(schema)
    return importlib.import_module("torchvision")


torchvision = _load()


def listed_files(images: "GTSRB") -> list[tuple[str, int]]:
    """Path and class of every image of a data set that torchvision lists, without opening any."""
    return images._samples
