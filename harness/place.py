"""Where things lie and run: output folder, data folder, device. Nothing of it changes a number."""

import contextlib
import fcntl
import functools
import hashlib
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.errors import Mistake

_MASK = os.umask(0)
os.umask(_MASK)
MODE = 0o666 & ~_MASK  # of files, as other programs of this user make them
SEAL = "checksum"  # under which a JSON file keeps that of all else in it


class Damaged(Mistake):
    """A file that does not hold what was written to it."""


@dataclass(frozen=True)
class Place:
    """out: all that is written. data: root of the data sets, one folder each. device: as torch names it."""

    out: Path = Path("runs")
    data: Path = Path("data")
    device: str = "cpu"

    def trial(self, key: str) -> Path:
        return self.out / "trials" / key

    def cache(self, *parts: str) -> Path:
        return self.out.joinpath("cache", *parts)

    def writable(self) -> "Place":
        """The same place, its folder made. Raises `Mistake` where nothing can be written."""
        try:
            self.out.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.out):
                pass
        except OSError as error:
            raise Mistake(f"cannot write to {str(self.out)!r}: {error.strerror}; choose another --out") from None
        return self


@contextlib.contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[bool]:
    """Hold the lock file at `path`. Yields False, without the lock, where another process has it and `wait` is off.

    The kernel frees the lock with the process that holds it, so a killed process leaves none behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield True


def write(path: Path, save: Callable[[Path], object]) -> None:
    """Let `save` fill a temporary file, then rename it to `path`: readers see the old file or the new, never a part."""
    name = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
        os.close(handle)
        save(Path(name))
        os.chmod(name, MODE)  # a temporary file is its owner's alone, what is kept is for whom the folder is
        with open(name, "rb") as written:
            os.fsync(written.fileno())
        os.replace(name, path)
    except OSError as error:
        raise Mistake(f"cannot write {str(path)!r}: {error.strerror}; what was there before is untouched") from None
    finally:
        if name:
            Path(name).unlink(missing_ok=True)


def write_json(path: Path, value: dict) -> None:
    """`value` as JSON at `path`, whole or not at all, with a checksum of itself."""
    sealed = {**value, SEAL: _seal(value)}
    write(path, lambda temporary: temporary.write_text(json.dumps(sealed, indent=1)))


def read_json(path: Path) -> dict | None:
    """What `write_json` put there; None where there is nothing, or a damaged file, which is set aside."""
    try:
        value = json.loads(path.read_text())
        if not isinstance(value, dict) or value.pop(SEAL, None) not in (None, _seal(value)):
            raise ValueError
        return value
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError):
        set_aside(path)
        return None


def _seal(value: dict) -> str:
    text = json.dumps(json.loads(json.dumps(value)), sort_keys=True)  # twice: a number as a key becomes a text
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def set_aside(path: Path) -> None:
    """Rename a damaged file, or folder, of which somebody will make a new one, and say so."""
    kept = path.with_name(f"{path.name}.damaged")
    if kept.is_dir():
        shutil.rmtree(kept)
    os.replace(path, kept)
    warnings.warn(
        f"{str(path)!r} is damaged: what it held is made again, and it is kept as {kept.name!r}", stacklevel=3
    )


def digest(path: Path) -> str:
    """SHA-256 of a file, 16 hex digits; read once per process, as long as the file stays the same."""
    about = path.stat()
    return _digest(path, about.st_size, about.st_mtime_ns, about.st_ino)


@functools.lru_cache(maxsize=256)
def _digest(path: Path, size: int, changed: int, inode: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def only_whole_lines(path: Path) -> None:
    """Cut a last line that a full disk or a lost machine left unfinished: the next one would be glued to it."""
    if path.exists() and not (text := path.read_bytes()).endswith(b"\n"):
        os.truncate(path, text.rfind(b"\n") + 1 if b"\n" in text else len(text))
