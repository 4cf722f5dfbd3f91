"""Atomic file writes, file locks, checksums and quarantine of damaged files."""

import contextlib
import fcntl
import functools
import hashlib
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

from harness.errors import UserError

_MASK = os.umask(0)
os.umask(_MASK)
MODE = 0o666 & ~_MASK  # permissions of written files: the default under the process umask


class CorruptFile(UserError):
    """A file whose content is damaged: truncated, garbled or of another format."""


@contextlib.contextmanager
def locked(path: Path, wait: bool = True, shared: bool = False) -> Iterator[bool]:
    """Hold a lock (flock) on the file `path`. Without `wait`, yields False if another process holds it.

    shared: any number of processes may hold it so, but none while another holds it exclusively. The kernel releases the
    lock when its process ends, so a killed process leaves no stale lock.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as handle:
        try:
            fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield True


def write(path: Path, save: Callable[[Path], object]) -> None:
    """Write a file atomically: `save(temporary)` writes, then a rename. Readers see the old or the new file, no part.

    Raises `UserError` if it cannot be written; the previous file is then unchanged.
    """
    name = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
        os.close(handle)
        save(Path(name))
        os.chmod(name, MODE)  # mkstemp makes it private to its owner
        with open(name, "rb") as written:
            os.fsync(written.fileno())
        os.replace(name, path)
    except OSError as error:
        raise UserError(f"cannot write {str(path)!r}: {error.strerror}; existing data is unchanged") from None
    finally:
        if name:
            Path(name).unlink(missing_ok=True)


def quarantine(path: Path) -> None:
    """Rename a damaged file or folder to `NAME.damaged`, with a warning, so that the caller can recreate it."""
    renamed = path.with_name(f"{path.name}.damaged")
    if renamed.is_dir():
        shutil.rmtree(renamed)
    os.replace(path, renamed)
    warnings.warn(f"{str(path)!r} is damaged and will be recreated; the damaged copy is {renamed.name!r}", stacklevel=3)


def digest(path: Path) -> str:
    """SHA-256 of a file, first 16 hex digits; cached per process until size, modification time or inode change."""
    stat = path.stat()
    return _digest(path, stat.st_size, stat.st_mtime_ns, stat.st_ino)


@functools.lru_cache(maxsize=256)
def _digest(path: Path, size: int, modified: int, inode: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def drop_partial_line(path: Path) -> None:
    """Truncate an unfinished last line (full disk, lost machine), so that the next append starts a new line."""
    if path.exists() and not (text := path.read_bytes()).endswith(b"\n"):
        os.truncate(path, text.rfind(b"\n") + 1 if b"\n" in text else len(text))
