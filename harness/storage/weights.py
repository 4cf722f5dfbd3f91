"""Save and load torch weights and checkpoints safely (`weights_only`), with checksums."""

import io
import warnings
import zipfile
from pathlib import Path

import torch

from harness.errors import UserError
from harness.storage import checkpoint_kinds, files


def save_weights(path: Path, state: dict) -> None:
    """Atomic torch.save. Raises `UserError` if the file cannot be written."""
    memory = io.BytesIO()  # torch's own writer reports a full disk as an internal error
    torch.save(state, memory)
    files.write(path, lambda temporary: temporary.write_bytes(memory.getbuffer()))


def load_weights(path: Path, hint: str = "; remove it and its trial starts again") -> dict:
    """torch.load with `weights_only`, on the CPU, after checking the CRC of every member of the zip file.

    Raises `CorruptFile` for a damaged file or another format, `UserError` if it cannot be read.
    """
    try:
        if zipfile.is_zipfile(path):  # format since torch 1.6; torch.load does not verify its checksums
            with zipfile.ZipFile(path) as members:
                if members.testzip():
                    raise zipfile.BadZipFile
        with warnings.catch_warnings(action="ignore"):  # other formats are rejected anyway
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"cannot read {str(path)!r}: {error.strerror}") from None
    except Exception as error:  # unpickling garbled bytes may raise anything
        raise files.CorruptFile(f"{str(path)!r} {checkpoint_kinds.describe(path, error)}{hint}") from None
