"""Read CIFAR-10, CIFAR-100, SVHN and GTSRB by torchvision, from files already downloaded."""

import json
import warnings
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from PIL import Image

from harness.data.readers.common import Part, Raw, Reader, contents, stamp
from harness.data.readers.images import Encoded, Sample, decoded, pixels
from harness.data.readers.stack import stack
from harness.errors import UserError, one_line, shell_command

Arguments = Mapping[str, bool | str]  # by which torchvision selects a part


class Archive(NamedTuple):
    """kind: torchvision's class. marks: files or folders of its download. parts: its arguments for train and test."""

    kind: str
    marks: tuple[str, ...]
    parts: tuple[Arguments, Arguments]
    classes: int


class Images(Protocol):
    """A data set of torchvision: images with labels."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Image.Image, int]: ...


_TRAIN = {"train": True}, {"train": False}
_SPLIT = {"split": "train"}, {"split": "test"}

SETS = {
    "cifar10": Archive("CIFAR10", ("cifar-10-batches-py",), _TRAIN, 10),
    "cifar100": Archive("CIFAR100", ("cifar-100-python",), _TRAIN, 100),
    "svhn": Archive("SVHN", ("train_32x32.mat", "test_32x32.mat"), _SPLIT, 10),
    "gtsrb": Archive("GTSRB", ("gtsrb",), _SPLIT, 43),
}


def holds(folder: Path) -> bool:
    """Whether the folder has this layout."""
    return folder.name in SETS and any((folder / mark).exists() for mark in SETS[folder.name].marks)


def layout(name: str, folder: Path) -> str:
    """The expected folder layout and the download command, for messages."""
    files = f"torchvision's own files ({', '.join(SETS[name].marks)})"
    return f"{files}; torchvision downloads them by: {download_command(name, folder)}"


def download_command(name: str, folder: Path) -> str:
    """The shell command by which torchvision downloads the data set into `folder`."""
    kind, _, parts, _ = SETS[name]
    place = json.dumps(str(folder), ensure_ascii=False)  # in double quotes: the shell's are single ones
    arguments = [_as_arguments(part).replace("'", '"') for part in parts]
    calls = "; ".join(f"d.{kind}({place}, {part}, download=True)" for part in arguments)
    code = f"from harness.models.torchvision_import import torchvision; d = torchvision.datasets; {calls}"
    return shell_command("python", "-c", code)


def _as_arguments(arguments: Arguments) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in arguments.items())


def reader(folder: Path) -> Reader:
    """The reader of this folder."""
    return Reader(read=partial(_read, folder), stamp=lambda: stamp("archive-1", folder, _files(folder)))


def _files(folder: Path) -> Iterator[Path]:
    for mark in SETS[folder.name].marks:
        yield from (p for p in [folder / mark, *(folder / mark).rglob("*")] if p.is_file())


def _read(folder: Path, size: int) -> Raw:
    from harness.models.torchvision_import import listed_files, torchvision

    kind, _, part_arguments, classes = SETS[folder.name]
    parts: list[Part] = []
    names = [str(k) for k in range(classes)]
    for arguments in part_arguments:
        try:
            with warnings.catch_warnings():
                # CIFAR's pickles use dtypes that NumPy 2.4 warns of. torchvision compares the published MD5 sum of
                # a file before it unpickles it.
                warnings.simplefilter("ignore", np.exceptions.VisibleDeprecationWarning)
                images = getattr(torchvision.datasets, kind)(folder, **arguments, download=False)
        except (RuntimeError, OSError, ValueError, KeyError) as error:
            raise UserError(
                f"torchvision cannot read {str(folder)!r} ({one_line(error)}); "
                f"download the files again by: {download_command(folder.name, folder)}"
            ) from None
        where = f"{kind}({_as_arguments(arguments)}) in {str(folder)!r}"
        listed = kind == "GTSRB"
        samples = _listed(listed_files(images), where, size, folder) if listed else _samples(images, where, size)
        parts.append(stack(samples, len(images)))
        names = getattr(images, "classes", names)
    # GTSRB's labels are the positions of its sorted folders: a missing one shifts all later labels.
    if (present := len(np.unique(parts[0].y))) != classes:
        raise UserError(f"{str(folder)!r} holds {present} of the {classes} classes of {kind}; it is incomplete")
    return Raw(parts[0], parts[1], tuple(names))


def _samples(images: Images, where: str, size: int) -> Iterator[Sample]:
    for i in range(len(images)):
        try:
            image, y = images[i]
            x = pixels(image, size)
        except Exception as error:  # a damaged file makes Pillow raise nearly anything
            raise UserError(f"cannot decode image {i} of {where}: {one_line(error)}") from None
        yield Sample(f"image {i} of {where}", x, int(y))


def _listed(listed: list[tuple[str, int]], where: str, size: int, folder: Path) -> Iterator[Sample]:
    """GTSRB's images, read here because torchvision opens any path that its list names."""
    outside = next((path for path, _ in listed if folder not in Path(path).parents or ".." in Path(path).parts), None)
    if outside:
        raise UserError(f"{where} lists {outside!r}, which is not in that folder")
    encoded = (Encoded(f"image {i} of {where}", contents(Path(path)), y) for i, (path, y) in enumerate(listed))
    yield from decoded(encoded, size)
