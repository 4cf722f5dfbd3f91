"""The one place that imports torchvision.

Its wheel from the package index asks, at import, for two operators that only its CUDA-matched library defines. Beside a
CPU-only torch they are missing, so their schemas are declared first; neither is ever called here.
"""

import contextlib
import importlib

import torch

_OPERATORS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}


def _load():
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    global _library  # the schemas last as long as this object
    _library = torch.library.Library("torchvision", "FRAGMENT")
    for schema in _OPERATORS.values():
        with contextlib.suppress(RuntimeError):  # already there
            _library.define(schema)
    return importlib.import_module("torchvision")


torchvision = _load()
