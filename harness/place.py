"""Where things lie and run: output folder, data folder, device. Nothing of it changes a number."""

import contextlib
import fcntl
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.errors import Mistake

_MASK = os.umask(0)
os.umask(_MASK)
MODE = 0o666 & ~_MASK  # of files, as other programs of this user make them


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


def write_json(path: Path, value: object) -> None:
    """`value` as JSON at `path`, whole or not at all."""
    write(path, lambda temporary: temporary.write_text(json.dumps(value, indent=1)))


def read_json(path: Path) -> dict | None:
    """What `write_json` put there; None where there is nothing. Raises `Mistake` where it is not JSON."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (ValueError, UnicodeDecodeError):
        raise Mistake(f"{str(path)!r} is damaged; remove it and its trial is run again") from None


def only_whole_lines(path: Path) -> None:
    """Cut a last line that a full disk or a lost machine left unfinished: the next one would be glued to it."""
    if path.exists() and not (text := path.read_bytes()).endswith(b"\n"):
        os.truncate(path, text.rfind(b"\n") + 1 if b"\n" in text else len(text))
