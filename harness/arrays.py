"""Arrays out of .npz files that others may have written: nothing in them is run, and nothing grows without bound."""

import zipfile
from pathlib import Path

import numpy as np

from harness.errors import Mistake

MOST = 2**28  # bytes that the arrays of one file may take: numbers per image and pictures take a few millions


def read(file: Path, only: str = "") -> dict[str, np.ndarray]:
    """The arrays of the file by name, or the one called `only` alone, if it is there.

    Raises `Mistake` where it is missing, damaged, holds objects, which would have to be unpickled, or unpacks to more
    than `MOST` bytes.
    """
    try:
        if (size := unpacked(file)) > MOST:
            raise Mistake(f"{str(file)!r} would unpack to {size} bytes, more than the {MOST} that it may")
        with open(file, "rb") as opened, np.load(opened, allow_pickle=False) as members:  # numpy leaves open what fails
            arrays = {name: members[name] for name in members.files if only in ("", name)}
    except OSError as error:
        raise Mistake(f"cannot read {str(file)!r}: {error.strerror or 'it is damaged'}") from None
    except Mistake:
        raise
    except Exception:  # a damaged file makes numpy raise nearly anything, a header that lies a MemoryError
        raise Mistake(f"{str(file)!r} is damaged: it does not hold arrays") from None
    if not all(isinstance(array, np.ndarray) for array in arrays.values()):  # numpy gives other members as bytes
        raise Mistake(f"{str(file)!r} is damaged: it does not hold arrays")
    return arrays


def unpacked(file: Path) -> int:
    """How many bytes the members of a zip file take when unpacked: no reader of Python's takes more out of them.

    Raises `zipfile.BadZipFile` where it is none.
    """
    with zipfile.ZipFile(file) as members:
        return sum(member.file_size for member in members.infolist())
