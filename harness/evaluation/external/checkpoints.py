"""Read a checkpoint of another project without running anything in it, and find the state dicts that it holds."""

import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from harness.errors import UserError, nearest, one_line, shown
from harness.storage import npz
from harness.storage.weights import load_weights

StateDict = Mapping[str, Tensor]


def load_untrusted_weights(file: Path) -> dict:
    """Load an untrusted `torch.save` file: tensors and plain values only, without executing pickled code.

    Raises `UserError` for any other file, and for a compressed zip (a zip bomb): torch does not compress.
    """
    try:
        grows = npz.unpacked_size(file) > 2 * file.stat().st_size
    except (OSError, zipfile.BadZipFile):
        grows = False  # legacy format or no checkpoint: left to the loader
    if grows:
        raise UserError(f"{str(file)!r} is a packed zip file, not a checkpoint")
    return load_weights(file, hint="")


def read_state_dicts(file: Path, key: str | None = None) -> dict[str, StateDict]:
    """State dicts in a checkpoint by their dotted key; "" is the checkpoint itself.

    key: only that one, those below it, or the tensors of a state dict whose names begin with it. Raises `UserError` for
    a file without a state dict, and for a key that it lacks, with the keys that it has.
    """
    saved = _read_safetensors(file) if _is_safetensors(file) else load_untrusted_weights(file)
    found = dict(_nested(saved)) or {"": _tensors(saved)}
    if not any(found.values()):
        raise UserError(f"{str(file)!r} holds no weights (a dict of names and tensors)")
    if key is None:
        return found
    below = {path: state for path, state in found.items() if path == key or path.startswith(f"{key}.")}
    named = {
        n.removeprefix(f"{key}."): t for state in found.values() for n, t in state.items() if n.startswith(key + ".")
    }
    if not below and not named:
        there = [path for path in found if path] or {
            name.partition(".")[0] for state in found.values() for name in state
        }
        raise UserError(f"--weights-key {shown(key)} is not in {str(file)!r}; {nearest(key, there)}")
    return below or {key: named}


def _nested(saved: object, path: str = "") -> Iterator[tuple[str, StateDict]]:
    """The dicts below a checkpoint that hold tensors alone, with dotted paths; an optimiser's have numbers as keys."""
    if not isinstance(saved, Mapping) or path.startswith("optim"):
        return
    for key, value in saved.items():
        if not isinstance(key, str) or not isinstance(value, Mapping) or not value:
            continue
        below = f"{path}.{key}" if path else key
        if all(isinstance(k, str) and isinstance(v, Tensor) for k, v in value.items()):
            yield below, value
        else:
            yield from _nested(value, below)


def _tensors(saved: object) -> StateDict:
    """The tensors of a state dict; a step or an epoch beside them is none of the net's."""
    if not isinstance(saved, Mapping):
        return {}
    return {name: value for name, value in saved.items() if isinstance(name, str) and isinstance(value, Tensor)}


def _is_safetensors(file: Path) -> bool:
    """By its name, or by its beginning: the length of a JSON header, and the header."""
    if file.suffix == ".safetensors":
        return True
    try:
        with open(file, "rb") as opened:
            head = opened.read(10)
    except OSError:
        return False  # left to the loader, which says why
    return head[8:10] == b'{"' and int.from_bytes(head[:8], "little") < file.stat().st_size


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file by name; the format holds no code."""
    try:
        return load_file(file)
    except OSError as error:
        raise UserError(f"cannot read {str(file)!r}: {error.strerror or one_line(error)}") from None
    except SafetensorError as error:
        raise UserError(f"{str(file)!r} is not a safetensors file: {one_line(error)}") from None
