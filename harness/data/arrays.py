"""Use arrays or tensors in memory as a data set: store them once, as a folder that every process can read.

name = from_arrays(Arrays(x, y), Arrays(x_test, y_test), workspace)    # x (N, C, H, W), y (N,)
load(DataSource(name), workspace)
"""

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import ArrayLike
from PIL import Image

from harness.data.readers.common import UNKNOWN
from harness.data.readers.parquet_columns import CODED_MASK
from harness.errors import UserError, shown
from harness.storage.files import write
from harness.storage.workspace import Workspace

_LEVELS = 255
_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_FEATURES = '{"info": {"features": {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": [%s]}}}}'


@dataclass(frozen=True)
class Arrays:
    """Images and labels in memory, as NumPy arrays, tensors on the CPU, or nested lists.

    x: (N, C, H, W), C 1 or 3: uint8, or floats in [0, 1] that are whole 255ths. y: (N,) whole numbers from 0. boxes:
    (N, 4) x1, y1, x2, y2 in pixels, inclusive. masks: (N, H, W): 0 background, 1 object, 255 unknown.
    """

    x: ArrayLike
    y: ArrayLike
    boxes: ArrayLike | None = None
    masks: ArrayLike | None = None


def from_arrays(
    train: Arrays, test: Arrays | None, workspace: Workspace, *, name: str = "arrays", classes: Sequence[str] = ()
) -> str:
    """Store arrays under the data root, and give the name of their data set: `name` and a digest of their content.

    The same arrays are stored once. Without a test part, `data.test_share` draws one. classes: their names, if any. A
    trial on them has the default settings of any other folder, such as `data.size=32`. Raises `UserError` for arrays of
    another shape, type or range, or a data root that cannot be written.
    """
    if workspace.remote_data:
        raise UserError(f"arrays are stored in the data root, which must be a folder and not {workspace.remote_data!r}")
    if not name or Path(name).name != name or name.startswith((".", "-")):
        raise UserError(f"the name of arrays is that of a folder in the data root, such as 'arrays', not {shown(name)}")
    parts = {"train": _checked("train", train)} | ({} if test is None else {"test": _checked("test", test)})
    labels = 1 + max(int(part["y"].max()) for part in parts.values())
    names = tuple(classes) or tuple(map(str, range(labels)))
    if labels > len(names):
        raise UserError(f"arrays have labels up to {labels - 1}, but {len(names)} classes")
    folder = workspace.data / f"{name}-{_digest(parts, names)}"
    for part, columns in parts.items():
        file = folder / f"{part}.parquet"
        if not file.exists():
            write(file, partial(pq.write_table, _table(columns, names)))
    return folder.name


def _checked(part: str, arrays: Arrays) -> dict[str, np.ndarray]:
    """The columns as a reader would give them. Raises `UserError` for what is wrong, by the name of the array."""
    x = _pixels(f"{part}.x", _array(arrays.x))
    n, _, height, width = x.shape
    columns = {"x": x, "y": _whole(f"{part}.y", arrays.y, (n,), 0, 2**31 - 1)}
    if arrays.boxes is not None:
        boxes = _whole(f"{part}.boxes", arrays.boxes, (n, 4), 0, max(height, width) - 1)
        wrong = (boxes[:, :2] > boxes[:, 2:]).any(1) | (boxes[:, 2] >= width) | (boxes[:, 3] >= height)
        if wrong.any():
            i = int(wrong.argmax())
            raise UserError(
                f"{part}.boxes[{i}] is {boxes[i].tolist()}, no box x1, y1, x2, y2 in {width}x{height} pixels"
            )
        columns["boxes"] = boxes
    if arrays.masks is not None:
        masks = _whole(f"{part}.masks", arrays.masks, (n, height, width), 0, UNKNOWN)
        if other := set(np.unique(masks)) - {0, 1, UNKNOWN}:
            raise UserError(f"{part}.masks has the value {min(other)}; there are 0 background, 1 object, 255 unknown")
        columns["masks"] = masks.astype(np.uint8)
    return columns


def _array(values: ArrayLike) -> np.ndarray:
    try:
        return np.asarray(values)
    except (TypeError, ValueError, RuntimeError):  # of a GPU, or one that needs gradients
        raise UserError(
            "arrays must be NumPy arrays or tensors on the CPU, of a type of NumPy and without gradients"
        ) from None


def _pixels(name: str, x: np.ndarray) -> np.ndarray:
    """(N, C, H, W) uint8. Raises `UserError` for another shape or range."""
    if x.ndim != 4 or x.shape[1] not in (1, 3) or 0 in x.shape:
        hint = "; put the channels first" if x.ndim == 4 and x.shape[3] in (1, 3) else ""
        raise UserError(f"{name} must be (N, C, H, W) with 1 or 3 channels, not {x.shape}{hint}")
    if x.dtype == np.uint8:
        return x
    if not np.issubdtype(x.dtype, np.floating):
        raise UserError(f"{name} must be uint8, or floats in [0, 1], not {x.dtype}")
    low, high = float(x.min()), float(x.max())
    if not (low >= 0 and high <= 1):
        hint = "; give them as uint8" if 1 < high <= _LEVELS and low >= 0 else "; undo the normalisation"
        raise UserError(f"{name} has values from {low:g} to {high:g}, and floats are in [0, 1]{hint}")
    levels = np.rint(x * _LEVELS)
    if np.abs(x * _LEVELS - levels).max() > 0.01:
        raise UserError(f"{name} has values between the 256 levels of an 8-bit image; round them to k / 255")
    return levels.astype(np.uint8)


def _whole(name: str, values: ArrayLike, shape: tuple[int, ...], low: int, high: int) -> np.ndarray:
    """Whole numbers of this shape and range as int64, else a `UserError`."""
    array = _array(values)
    if array.shape != shape:
        raise UserError(f"{name} must have the shape {shape}, not {array.shape}")
    if not (np.issubdtype(array.dtype, np.integer) or array.dtype == bool):
        raise UserError(f"{name} must be whole numbers, not {array.dtype}")
    if array.min() < low or array.max() > high:
        raise UserError(f"{name} must lie in {low} to {high}, and goes from {array.min()} to {array.max()}")
    return array.astype(np.int64)


def _digest(parts: dict[str, dict[str, np.ndarray]], classes: Sequence[str]) -> str:
    digest = hashlib.sha256(repr(tuple(classes)).encode())
    for part, columns in parts.items():
        for name, array in columns.items():
            digest.update(f"{part} {name} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:12]


def _table(columns: dict[str, np.ndarray], classes: Sequence[str]) -> pa.Table:
    """Images as PNG, which loses nothing, in the layout that the parquet reader reads."""
    table = {"image": _encoded(columns["x"]), "label": pa.array(columns["y"])}
    if "boxes" in columns:
        table["bbox"] = pa.array(columns["boxes"].tolist(), pa.list_(pa.int64(), 4))
    if "masks" in columns:
        table[CODED_MASK] = _encoded(columns["masks"][:, None])
    features = _FEATURES % ", ".join(map(json.dumps, classes))
    return pa.table(table).replace_schema_metadata({"huggingface": features})


def _encoded(images: np.ndarray) -> pa.Array:
    """PNGs of (N, C, H, W) uint8."""
    return pa.array([{"bytes": _png(image), "path": None} for image in images], _IMAGE)


def _png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)).save(buffer, "PNG")
    return buffer.getvalue()
