"""What a file is that holds more than tensors and plain values, for an error message; nothing in it is run."""

import re
import zipfile
from pathlib import Path

ADVICE = ": save net.state_dict()"
_FIRST_OBJECT = re.compile(r"GLOBAL ([\w.]+) ?")  # in torch.load's refusal: what the first object is made by
_MODULE = (b"_parameters", b"_buffers", b"_modules")  # names in the pickle of every torch.nn.Module
_HEADS = {
    b"<!doctype": "is a web page, not a checkpoint",
    b"<html": "is a web page, not a checkpoint",
    b"<?xml": "is a web page, not a checkpoint",
    b"version https://git-lfs": "is a pointer of Git LFS, not a checkpoint: fetch the file with git lfs pull",
    b"\x89hdf": f"is an HDF5 file, as Keras writes, not a checkpoint of torch{ADVICE}",
    b"\x93numpy": f"is a numpy array, not a checkpoint of torch{ADVICE}",
    b"\x80\x04": f"is a pickle that torch.save did not write, and is not run{ADVICE}",
    b"\x80\x05": f"is a pickle that torch.save did not write, and is not run{ADVICE}",
}
_MEMBERS = {
    "/constants.pkl": f"is a TorchScript program, which is code, not a checkpoint{ADVICE}",
    "/archive_format": f"is a program of torch.export, which is code, not a checkpoint{ADVICE}",
    ".npy": f"is an archive of numpy arrays, not a checkpoint of torch{ADVICE}",
}


def describe(path: Path, error: Exception) -> str:
    """Say of a file that torch.load refused with `error` what it is, and what to save instead: `is ...`, `holds ...`.

    Knows web pages, pointers of Git LFS, programs of TorchScript and torch.export, numpy's files, and pickles by the
    first object in them.
    """
    if isinstance(error, zipfile.BadZipFile):
        return "is a damaged zip file"
    with open(path, "rb") as file:
        head = file.read(512).lstrip().lower()
    for start, kind in _HEADS.items():
        if head.startswith(start):
            return kind
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as members:
            names = members.namelist()
        for end, kind in _MEMBERS.items():
            if any(name.endswith(end) for name in names):
                return kind
    if found := _FIRST_OBJECT.search(str(error)):
        return f"holds {_object(found[1], path)}, and nothing pickled is run{ADVICE}"
    return "is not a checkpoint"


def _object(made_by: str, path: Path) -> str:
    if made_by.startswith("numpy.") and made_by.endswith(".scalar"):
        return "a numpy scalar"
    if made_by.startswith("numpy."):
        return "a numpy array"
    content = _pickle(path)
    return f"a pickled module of class {made_by}" if all(m in content for m in _MODULE) else f"an object of {made_by}"


def _pickle(path: Path) -> bytes:
    """The pickle in a file of torch.save, or the beginning of another file."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as members:
            name = next((n for n in members.namelist() if n.endswith("data.pkl")), None)
            return members.read(name) if name else b""
    with open(path, "rb") as file:
        return file.read(1 << 24)
