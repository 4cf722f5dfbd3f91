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
from typing import TYPE_CHECKING

from harness.errors import Mistake

if TYPE_CHECKING:
    from harness.storage import Mirror

_MASK = os.umask(0)
os.umask(_MASK)
MODE = 0o666 & ~_MASK  # of files, as other programs of this user make them
SEAL = "checksum"  # under which a JSON file keeps that of all else in it


class Damaged(Mistake):
    """A file that does not hold what was written to it."""


@dataclass(frozen=True)
class Place:
    """out: all that is written. data: root of the data sets, one folder each. device: as torch names it.

    store: the URI of which `out` is this node's copy, if any. near: a folder of this node for what each node makes for
    itself; source: the URI of the data sets' root, of which `data` is this node's copy, if any.
    """

    out: Path = Path("runs")
    data: Path = Path("data")
    device: str = "cpu"
    store: str = ""
    near: Path | None = None
    source: str = ""

    def trial(self, key: str) -> Path:
        return self.out / "trials" / key

    def cache(self, *parts: str) -> Path:
        """What a cluster makes once."""
        return self.out.joinpath("cache", *parts)

    def staged(self, *parts: str) -> Path:
        """What a node makes once."""
        return (self.near or self.cache()).joinpath(*parts)

    @contextlib.contextmanager
    def holding(self, folder: Path) -> Iterator[Callable[[], None]]:
        """Hold a folder of `out` for this process alone, among all of a cluster, as the last one that held it left it.

        Yields what is to be called when there is something new in it that another node should find if this one dies.
        """
        with locked(folder / "lock"):
            if not self.store:
                yield lambda: None
                return
            from harness import storage

            store, name = storage.store(self.store), folder.relative_to(self.out).as_posix()
            with storage.leased(store, f"{name}/{storage.LEASE}"):
                copy = storage.Copy(store, name, folder)
                copy.pull()
                try:
                    yield copy.keep
                finally:
                    copy.push()

    def brought(self, folder: Path) -> Path:
        """A folder of `out`, made here as it is in the store if there is one."""
        if self.store:
            with self.holding(folder):
                pass
        return folder

    @contextlib.contextmanager
    def alone(self) -> Iterator[bool]:
        """Write to `out` as the only command. Yields False where another one does."""
        with locked(self.out / "lock", wait=False) as free:
            if not free or not self.store:
                yield free
                return
            from harness import storage

            with storage.leased(storage.store(self.store), storage.LEASE, wait=False) as free:
                yield free

    @contextlib.contextmanager
    def mirrored(self) -> Iterator["Mirror"]:
        """Keep in the store, if there is one, what only the command writes: the journal, the logs, the reports."""
        from harness import storage

        def names() -> list[str]:
            found = [*self.out.glob("reports/*"), self.out / "optuna.journal"]
            found += [*self.out.glob("track/*.delivered"), *self.out.glob("track/*.jsonl")]
            return [path.relative_to(self.out).as_posix() for path in found]

        store = storage.store(self.store) if self.store else None
        mirror = storage.Mirror(store, self.out, names)
        if store:
            mirror.pull(["optuna.journal", *(f"track/{name}" for name in store.files("track"))])
        with mirror.pushing():
            yield mirror

    def fetch(self, name: str) -> None:
        """Bring the folder of a data set here, once per node, where the data lie at a URI."""
        if self.source and Path(name).name == name.strip("."):  # all else leads out of the root
            from harness import storage

            with locked(self.data / f"{name}.lock"):
                storage.fetch(storage.store(self.source), name, self.data / name)

    def writable(self) -> "Place":
        """The same place, its folder made. Raises `Mistake` where nothing can be written, or others could have."""
        try:
            if self.near:
                self.near.mkdir(mode=0o700, parents=True, exist_ok=True)
                if self.near.stat().st_uid != os.getuid():
                    raise Mistake(f"{str(self.near)!r} is another user's; name a folder of yours by HARNESS_SCRATCH")
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
