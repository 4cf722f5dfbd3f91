"""Output at an fsspec URI, such as s3://bucket/runs: nodes work on copies of its folders, and hold them by leases.

Nothing here knows what the folders hold. A folder is pulled when it is taken, and what changed in it is pushed while
it is held and when it is given back, in the order in which it was written.
"""

import contextlib
import functools
import json
import math
import os
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from harness.errors import Mistake, one_line, redacted

BEAT = 10.0  # seconds between two signs of life of a lease's holder
STALE = 60.0  # seconds without one after which the holder counts as dead
ASK = 0.5  # seconds between two looks at a lease that another one holds
SHARE = 0.1  # of the time, at most, that goes into pushing while work goes on
TRIES = (1.0, 4.0)  # seconds before an operation that failed is tried again
PUSH = 5.0  # seconds between two pushes of what the driver appends to
LEASE, RECORD = "lease", ".store.json"
_Done = TypeVar("_Done")


class Store:
    """A folder by URI. Every method takes names relative to it, and raises `Mistake` where the store fails."""

    def __init__(self, uri: str):
        from fsspec.core import url_to_fs
        from fsspec.implementations.dirfs import DirFileSystem

        self.uri = uri
        try:
            fs, root = url_to_fs(uri, use_listings_cache=False)
        except ImportError as error:
            raise Mistake(f"{redacted(uri)!r} needs a package that is not installed: {one_line(error)}") from None
        except ValueError as error:
            raise Mistake(f"cannot use {redacted(uri)!r}: {one_line(error)}") from None
        self._local = Path(root) if "file" in (fs.protocol, *fs.protocol) else None
        self._fs = DirFileSystem(root, fs)

    def files(self, name: str) -> dict[str, str]:
        """The files below a name, relative to it, each with a stamp that changes with it."""
        found = self._do(lambda: self._fs.find(name, detail=True) if self._fs.exists(name) else {})
        return {path.removeprefix(f"{name}/"): _stamp(info) for path, info in found.items()}

    def get(self, name: str, to: Path) -> None:
        """Fetch a file, whole or not at all."""
        to.parent.mkdir(parents=True, exist_ok=True)
        part = to.with_name(f".{to.name}.part")
        self._do(lambda: self._fs.get_file(name, str(part)))
        os.replace(part, to)

    def put(self, file: Path, name: str) -> str:
        """Send a file. Returns its stamp."""
        if self._local:
            (self._local / name).parent.mkdir(parents=True, exist_ok=True)
        self._do(lambda: self._fs.put_file(str(file), name))
        return self._do(lambda: _stamp(self._fs.info(name)))

    def read(self, name: str) -> bytes | None:
        try:
            return self._do(lambda: self._fs.cat_file(name), FileNotFoundError)
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        if self._local:
            (self._local / name).parent.mkdir(parents=True, exist_ok=True)
        self._do(lambda: self._fs.pipe_file(name, content))

    def create(self, name: str, content: bytes) -> bool:
        """Write a file that is not there yet; False where it is. Of several at once one succeeds."""
        try:
            if self._local:
                (self._local / name).parent.mkdir(parents=True, exist_ok=True)
                with open(self._local / name, "xb") as file:
                    file.write(content)
            else:
                self._do(lambda: self._fs.pipe_file(name, content, mode="create"), FileExistsError)
        except FileExistsError:
            return False
        return True

    def remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._do(lambda: self._fs.rm_file(name), FileNotFoundError)

    def _do(self, operation: Callable[[], _Done], *expected: type[Exception]) -> _Done:
        for pause in (*TRIES, None):
            try:
                return operation()
            except expected:
                raise
            except Exception as error:  # stores fail in their packages' own ways
                if pause is None:
                    raise Mistake(f"the store {redacted(self.uri)!r} failed: {one_line(error)}") from None
            time.sleep(pause)
        raise AssertionError


def _stamp(info: dict) -> str:
    changed = next((info[k] for k in ("ETag", "etag", "md5Hash", "mtime", "LastModified", "updated") if k in info), "")
    return f"{info.get('size')} {changed}"


@functools.lru_cache(maxsize=8)
def store(uri: str) -> Store:
    """The store at a URI, opened once per process."""
    return Store(uri)


@contextlib.contextmanager
def leased(store: Store, name: str, wait: bool = True) -> Iterator[bool]:
    """Hold the lease `name`. Yields False, without it, where another one lives that has it and `wait` is off.

    A holder gives signs of life; who waits judges by its own clock whether they stopped.
    """
    me = {"host": socket.gethostname(), "pid": os.getpid(), "id": uuid.uuid4().hex, "beat": 0}
    if not _taken(store, name, me, wait):
        yield False
        return
    done = threading.Event()
    beating = threading.Thread(target=_beat, args=(store, name, me, done), daemon=True)
    beating.start()
    try:
        yield True
    finally:
        done.set()
        beating.join()
        if _object(store.read(name)).get("id") == me["id"]:
            store.remove(name)


def _taken(store: Store, name: str, me: dict, wait: bool) -> bool:
    seen, since = None, time.monotonic()
    while not store.create(name, json.dumps(me).encode()):
        found = store.read(name)
        if found is None:
            continue
        if _object(found).get("id") == me["id"]:
            return True  # it was created, and the answer lost
        if found != seen:
            if seen is not None and not wait:
                return False  # it lives
            seen, since = found, time.monotonic()
        if _is_gone(_object(found)) or time.monotonic() - since > STALE:
            store.remove(name)
            continue
        time.sleep(ASK)
    return True


def _object(content: bytes | None) -> dict:
    try:
        found = json.loads(content or b"{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _is_gone(holder: dict) -> bool:
    """Whether it was a process of this machine that is no more; its number may have become another one's."""
    try:
        if holder["host"] == socket.gethostname():
            os.kill(int(holder["pid"]), 0)
    except ProcessLookupError:
        return True
    except (OSError, KeyError, ValueError, TypeError):
        pass
    return False


def _beat(store: Store, name: str, me: dict, done: threading.Event) -> None:
    while not done.wait(BEAT):
        with contextlib.suppress(Mistake):  # a beat that is missed is one of several
            if _object(store.read(name)).get("id") != me["id"]:
                return  # this process slept for so long that another took over
            me["beat"] += 1
            store.write(name, json.dumps(me).encode())


class Copy:
    """This node's copy of a folder of the store."""

    def __init__(self, store: Store, name: str, folder: Path):
        self._store, self._name, self._folder = store, name, folder
        self._pushed: dict[str, tuple] = {}  # file -> size and time of the copy that the store has
        self._last = self._took = 0.0

    def pull(self) -> None:
        """Make the folder as the store has it; where nobody wrote to the store since, what this node has goes first."""
        there = self._store.files(self._name)
        there.pop(LEASE, None)
        record = self._folder / RECORD
        known = _object(record.read_bytes() if record.exists() else None).get("there")
        here = _files(self._folder)
        if there != known:
            for file in here.keys() - there.keys():
                (self._folder / file).unlink()
        for file, stamp in there.items():
            if file not in here or (known or {}).get(file) != stamp:
                self._store.get(f"{self._name}/{file}", self._folder / file)
        self._note(there)
        self._pushed = {file: about for file, about in _files(self._folder).items() if file in there}
        self._there = there

    def keep(self) -> None:
        """Push what changed, if the last push was long enough ago."""
        if time.monotonic() - self._last > self._took / SHARE:
            with contextlib.suppress(Mistake):  # the store gets it later, or says at the end why not
                self.push()

    def push(self) -> None:
        began = time.monotonic()
        here = _files(self._folder)
        changed = [file for file, about in here.items() if self._pushed.get(file) != about]
        for file in sorted(changed, key=lambda file: here[file][1]):  # as they were written: a result comes last
            self._there[file] = self._store.put(self._folder / file, f"{self._name}/{file}")
            self._pushed[file] = here[file]
        gone = [file for file in self._pushed if file not in here]
        for file in gone if (self._folder / RECORD).exists() else ():  # else somebody removed the whole copy
            self._store.remove(f"{self._name}/{file}")
            del self._pushed[file]
            self._there.pop(file, None)
        if changed:
            self._note(self._there)
        self._last = time.monotonic()
        self._took = self._last - began

    def _note(self, there: dict[str, str]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / RECORD).write_text(json.dumps({"there": there}))


def _files(folder: Path) -> dict[str, tuple[int, int]]:
    """The files below a folder with size and time of change; none that is hidden or a lock."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_file() and not path.name.startswith(".") and path.name != "lock":
            about = path.stat()
            found[str(path.relative_to(folder))] = (about.st_size, about.st_mtime_ns)
    return found


def fetch(store: Store, name: str, folder: Path) -> None:
    """A folder of the store at a place where there is none: whole or not at all. Nothing where the store has none."""
    if folder.exists() or not (there := store.files(name)):
        return
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    for file in there:
        store.get(f"{name}/{file}", part / file)
    os.replace(part, folder)


class Mirror:
    """Keeps the files that a driver appends to in the store, a few seconds behind; without a store it does nothing.

    names() gives them in the order in which they are read. They are sent in the opposite one: what speaks of another
    file comes before it, so that the store never has the first without what it speaks of.
    """

    def __init__(self, store: Store | None, folder: Path, names: Callable[[], Iterable[str]]):
        self._store, self._folder, self._names = store, folder, names
        self._kept: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def pull(self, names: Iterable[str]) -> None:
        """Fetch what this node lacks; of a file that only grows, a copy that is ahead stays."""
        for name in names if self._store else ():
            there, here = self._store.read(name), self._folder / name
            if there is not None and not (here.exists() and here.read_bytes().startswith(there)):
                here.parent.mkdir(parents=True, exist_ok=True)
                here.write_bytes(there)

    def push(self) -> None:
        """Bring the store up to date."""
        with self._lock:
            names = self._names() if self._store else ()
            read = {n: (self._folder / n).read_bytes() for n in names if (self._folder / n).is_file()}
            for name, content in reversed(read.items()):
                if self._kept.get(name) != content:
                    self._store.write(name, content)
                    self._kept[name] = content

    def safe(self, name: str) -> float:
        """How many bytes of a file no machine can take away with it."""
        return len(self._kept.get(name, b"")) if self._store else math.inf

    @contextlib.contextmanager
    def pushing(self) -> Iterator["Mirror"]:
        """Within, the store is brought up to date every few seconds, and at the end."""
        done = threading.Event()

        def work() -> None:
            while self._store and not done.wait(PUSH):
                with contextlib.suppress(Mistake):  # next time, or at the end
                    self.push()

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            done.set()
            thread.join()
            self.push()
