"""Composites as lossless WebP files, by Pillow. Its PNG files of maps with few colours are half as large again."""

import base64
import io

import numpy as np
from PIL import Image


def data_uri(webp: bytes) -> str:
    """A WebP file as a data URI."""
    return "data:image/webp;base64," + base64.b64encode(webp).decode()


def encode_webp(colours: np.ndarray, drawn: np.ndarray) -> bytes:
    """Encode colours (h, w, 3) uint8 without loss, transparent where the mask `drawn` (h, w) is False."""
    pixels = np.dstack([colours, np.where(drawn, 255, 0).astype(np.uint8)])
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "WEBP", lossless=True)
    return file.getvalue()
