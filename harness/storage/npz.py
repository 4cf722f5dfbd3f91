"""Arrays in .npz files, written atomically and read safely: no pickles, and a limit on the unpacked size."""

import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from harness.errors import UserError
from harness.storage import files

MAX_BYTES = 2**28  # limit on the arrays of one file; per-image scores and galleries take a few million bytes


def read(file: Path, only: str = "") -> dict[str, np.ndarray]:
    """The arrays of the file by name, or just the array `only`, if the file has it.

    Raises `UserError` if it is missing or damaged, holds pickled objects, or unpacks to more than `MAX_BYTES`.
    """
    try:
        if (size := unpacked_size(file)) > MAX_BYTES:
            raise UserError(f"{str(file)!r} would unpack to {size} bytes, more than the limit of {MAX_BYTES}")
        with (
            open(file, "rb") as opened,
            np.load(opened, allow_pickle=False) as members,
        ):  # numpy does not close the file after an error
            arrays = {name: members[name] for name in members.files if only in ("", name)}
    except OSError as error:
        raise UserError(f"cannot read {str(file)!r}: {error.strerror or 'it is damaged'}") from None
    except UserError:
        raise
    except Exception:  # numpy raises many types for damaged files, MemoryError for a wrong header
        raise UserError(f"{str(file)!r} is damaged: it does not hold arrays") from None
    if not all(
        isinstance(array, np.ndarray) for array in arrays.values()
    ):  # numpy returns members that are no arrays as bytes
        raise UserError(f"{str(file)!r} is damaged: it does not hold arrays")
    return arrays


def write(file: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write the arrays by name, atomically. Raises `UserError` if the file cannot be written.

    Raises `TypeError` for an array of Python objects, which numpy would pickle.
    """
    for name, array in arrays.items():
        if array.dtype.hasobject:
            raise TypeError(f"array {name!r} holds Python objects")
    files.write(file, lambda temporary: np.savez_compressed(temporary, **arrays))  # type: ignore[arg-type]  # by name


def unpacked_size(file: Path) -> int:
    """Unpacked size of a zip file in bytes, by its directory; Python's zipfile never reads more than that.

    Raises `zipfile.BadZipFile` if it is no zip file.
    """
    with zipfile.ZipFile(file) as members:
        return sum(member.file_size for member in members.infolist())
