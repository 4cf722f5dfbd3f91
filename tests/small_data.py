"""Data sets of a few generated images, written as people have them."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def noise(n, height=8, width=8, seed=0):
    """Images (n, H, W, 3) uint8."""
    return np.random.default_rng(seed).integers(0, 256, (n, height, width, 3), dtype=np.uint8)


def encoded(image, kind="PNG", **options):
    """The bytes of an image, or of an array (H, W) or (H, W, C)."""
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, kind, **options)
    return buffer.getvalue()


def column(images):
    """A column of encoded images."""
    return pa.array([{"bytes": data, "path": None} for data in images], IMAGE)


def write(path, images, labels=None, names=None, image="image", **more):
    """A parquet file of encoded images, as the `datasets` library writes it. labels: 0, 1, 0, 1 ... if None."""
    labels = [i % 2 for i in range(len(images))] if labels is None else labels
    features = {image: {"_type": "Image"}}
    if names:
        features["label"] = {"_type": "ClassLabel", "names": list(names)}
    table = pa.table({image: column(images), "label": pa.array(labels), **more})
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(table.replace_schema_metadata(metadata), path)


def both_parts(folder, images, labels=None, **more):
    """A data set whose train and test part are the same images."""
    for part in ("train", "test"):
        write(folder / f"{part}-00000-of-00001.parquet", images, labels, **more)
