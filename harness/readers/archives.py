"""Data sets in the files that torchvision downloads for them. Nothing is downloaded from here."""

import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from harness.errors import Mistake, one_line
from harness.readers.images import Encoded, Sample, decoded, pixels, stack
from harness.readers.parts import Raw, Reader, contents, stamp


class Archive(NamedTuple):
    """kind: torchvision's class. marks: files or folders it leaves. parts: its arguments for each part."""

    kind: str
    marks: tuple[str, ...]
    parts: tuple[dict[str, object], dict[str, object]]
    classes: int


_TRAIN = {"train": True}, {"train": False}
_SPLIT = {"split": "train"}, {"split": "test"}

SETS = {
    "cifar10": Archive("CIFAR10", ("cifar-10-batches-py",), _TRAIN, 10),
    "cifar100": Archive("CIFAR100", ("cifar-100-python",), _TRAIN, 100),
    "svhn": Archive("SVHN", ("train_32x32.mat", "test_32x32.mat"), _SPLIT, 10),
    "gtsrb": Archive("GTSRB", ("gtsrb",), _SPLIT, 43),
}


def holds(folder: Path) -> bool:
    return folder.name in SETS and any((folder / mark).exists() for mark in SETS[folder.name].marks)


def layout(name: str, folder: Path) -> str:
    """What torchvision keeps in a folder of this data set, in words, and how to get it."""
    files = f"torchvision's own files ({', '.join(SETS[name].marks)})"
    return f"{files}; torchvision fetches these by: {fetch(name, folder)}"


def fetch(name: str, folder: Path) -> str:
    """The command by which torchvision downloads the data set into `folder`."""
    kind, _, parts, _ = SETS[name]
    calls = "; ".join(f"d.{kind}({str(folder)!r}, {_spelled(part)}, download=True)" for part in parts)
    return f'python -c "from harness.vision import torchvision; d = torchvision.datasets; {calls}"'


def _spelled(arguments: dict[str, object]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in arguments.items())


def reader(folder: Path) -> Reader:
    return Reader(read=partial(_read, folder), stamp=lambda: stamp("archive-1", folder, _files(folder)))


def _files(folder: Path) -> Iterator[Path]:
    for mark in SETS[folder.name].marks:
        yield from (p for p in [folder / mark, *(folder / mark).rglob("*")] if p.is_file())


def _read(folder: Path, size: int) -> Raw:
    from harness.vision import torchvision

    kind, _, which, classes = SETS[folder.name]
    parts, names = [], [str(k) for k in range(classes)]
    for arguments in which:
        try:
            with warnings.catch_warnings():
                # CIFAR is pickled, its dtypes in a form that NumPy 2.4 warns of. Before torchvision unpickles
                # a file, it compares its MD5 sum with the published one.
                warnings.simplefilter("ignore", np.exceptions.VisibleDeprecationWarning)
                images = getattr(torchvision.datasets, kind)(folder, **arguments, download=False)
        except (RuntimeError, OSError, ValueError, KeyError) as error:
            raise Mistake(
                f"torchvision cannot read {str(folder)!r} ({one_line(error)}); "
                f"it would fetch the files anew by: {fetch(folder.name, folder)}"
            ) from None
        where = f"{kind}({_spelled(arguments)}) in {str(folder)!r}"
        samples = _listed(images, where, size, folder) if kind == "GTSRB" else _samples(images, where, size)
        parts.append(stack(samples, len(images)))
        names = getattr(images, "classes", names)
    # GTSRB's labels are the positions of its folders: where one is missing, all that follow are wrong.
    if (there := len(np.unique(parts[0].y))) != classes:
        raise Mistake(f"{str(folder)!r} holds {there} of the {classes} classes of {kind}; it is not whole")
    return Raw(*parts, classes=tuple(names))


def _samples(images, where: str, size: int) -> Iterator[Sample]:
    for i in range(len(images)):
        try:
            image, y = images[i]
            x = pixels(image, size)
        except Exception as error:  # a damaged file makes Pillow raise nearly anything
            raise Mistake(f"cannot decode image {i} of {where}: {one_line(error)}") from None
        yield Sample(f"image {i} of {where}", x, int(y))


def _listed(images, where: str, size: int, folder: Path) -> Iterator[Sample]:
    """GTSRB's images, which lie one a file and are read from here: torchvision opens whatever its list names."""
    listed = images._samples
    outside = next((path for path, _ in listed if folder not in Path(path).parents or ".." in Path(path).parts), None)
    if outside:
        raise Mistake(f"{where} lists {outside!r}, which is not in that folder")
    encoded = (Encoded(f"image {i} of {where}", contents(Path(path)), y) for i, (path, y) in enumerate(listed))
    yield from decoded(encoded, size)
