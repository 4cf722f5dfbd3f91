"""Remote output folder at an fsspec URI, such as s3://bucket/runs: pull, push and synchronise local copies.

Nodes work on local copies of folders. The driver lets one job at a time write to a folder: it is pulled when the job
begins, and changed files are pushed while it runs and when it ends, in the order in which they were written.
"""

import contextlib
import functools
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from harness.errors import UserError, one_line, redacted
from harness.storage.contained_path import inside

PUSH_SHARE = 0.1  # largest share of the time spent on pushing while a job writes to the folder
RETRY_PAUSES = (1.0, 4.0)  # seconds before the retries of a failed operation
RECORD = ".store.json"  # in a local copy: the remote stamps of its last pull or push
_Result = TypeVar("_Result")


class RemoteStore:
    """Remote folder by URI. Methods take names relative to it, retry, and raise `UserError` if the store fails."""

    def __init__(self, uri: str):
        from fsspec.core import url_to_fs
        from fsspec.implementations.dirfs import DirFileSystem

        self.uri = uri
        try:
            fs, root = url_to_fs(uri, use_listings_cache=False)
        except ImportError as error:
            raise UserError(f"{redacted(uri)!r} needs a package that is not installed: {one_line(error)}") from None
        except Exception as error:  # fsspec backends raise their own types
            raise UserError(f"cannot use {redacted(uri)!r}: {one_line(error)}") from None
        self._local = Path(root) if "file" in (fs.protocol, *fs.protocol) else None
        self._fs = DirFileSystem(root, fs)

    def files(self, name: str) -> dict[str, str]:
        """All files under a folder: path relative to it -> stamp (size and ETag or time), new with every change."""
        infos = self._do(lambda: self._fs.find(name, detail=True) if self._fs.exists(name) else {})
        return {path.removeprefix(f"{name}/"): _stamp(info) for path, info in infos.items()}

    def sizes(self) -> dict[str, int]:
        """Bytes of every file, by its name."""
        infos = self._do(lambda: self._fs.find("", detail=True) if self._fs.exists("") else {})
        return {name.lstrip("/"): int(info.get("size") or 0) for name, info in infos.items()}

    def get(self, name: str, to: Path) -> None:
        """Download a file atomically."""
        to.parent.mkdir(parents=True, exist_ok=True)
        part = to.with_name(f".{to.name}.part")
        self._do(lambda: self._fs.get_file(name, str(part)))
        os.replace(part, to)

    def put(self, file: Path, name: str) -> str:
        """Upload a file. Returns its stamp."""
        if self._local:
            (self._local / name).parent.mkdir(parents=True, exist_ok=True)
        self._do(lambda: self._fs.put_file(str(file), name))
        return self._do(lambda: _stamp(self._fs.info(name)))

    def exists(self, name: str) -> bool:
        return self._do(lambda: self._fs.exists(name))

    def read(self, name: str) -> bytes | None:
        """Content of a file; None if it does not exist."""
        try:
            return self._do(lambda: self._fs.cat_file(name), FileNotFoundError)
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        """Write a file atomically."""
        if self._local:
            part = self._local / f".{uuid.uuid4().hex}.part"  # in no folder that is listed
            self._do(functools.partial(self._write_local, self._local / name, part, content))
        else:
            self._do(lambda: self._fs.pipe_file(name, content))

    @staticmethod
    def _write_local(path: Path, part: Path, content: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(content)
        os.replace(part, path)

    def create(self, name: str, content: bytes) -> bool:
        """Create a file exclusively: False if it exists. Of several concurrent calls one succeeds."""
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

    def _do(self, operation: Callable[[], _Result], *expected: type[Exception]) -> _Result:
        """Run an operation with retries; `expected` exceptions are raised at once."""
        for pause in (*RETRY_PAUSES, None):
            try:
                return operation()
            except expected:
                raise
            except Exception as error:  # fsspec backends raise their own types
                if pause is None:
                    raise UserError(f"the store {redacted(self.uri)!r} failed: {one_line(error)}") from None
            time.sleep(pause)
        raise AssertionError


def _stamp(info: dict) -> str:
    version = next((info[k] for k in ("ETag", "etag", "md5Hash", "mtime", "LastModified", "updated") if k in info), "")
    return f"{info.get('size')} {version}"


@functools.lru_cache(maxsize=8)
def open_store(uri: str) -> RemoteStore:
    """The store at a URI, opened once per process."""
    return RemoteStore(uri)


def parse_object(content: bytes | None) -> dict:
    """The JSON object in `content`; {} for anything else."""
    try:
        value = json.loads(content or b"{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


class FolderCopy:
    """Local copy of a remote folder."""

    def __init__(self, store: RemoteStore, name: str, folder: Path):
        self._store, self._name, self._folder = store, name, folder
        self._pushed: dict[str, tuple] = {}  # file -> size and time of the local file that the store has
        self._last = self._took = 0.0  # seconds: when the last push ended, how long it took

    def pull(self) -> None:
        """Download changed files. Local files that the store lacks are deleted only if the store changed since.

        Raises `UserError` before anything is written, if the store names a file outside the folder.
        """
        stamps = self._store.files(self._name)
        paths = {file: inside(self._folder, file) for file in stamps}
        record = self._folder / RECORD
        known = parse_object(record.read_bytes() if record.exists() else None).get("there")
        local = _files(self._folder)
        if stamps != known:
            for file in local.keys() - stamps.keys():
                (self._folder / file).unlink()
        for file, stamp in stamps.items():
            if file not in local or (known or {}).get(file) != stamp:
                self._store.get(f"{self._name}/{file}", paths[file])
        self._record(stamps)
        self._pushed = {file: stat for file, stat in _files(self._folder).items() if file in stamps}
        self._stamps = stamps

    def push_if_due(self) -> None:
        """Push changes if the last push was long enough ago; errors are left to the final push."""
        if time.monotonic() - self._last > self._took / PUSH_SHARE:
            with contextlib.suppress(UserError):  # retried by a later push, which reports the error
                self.push()

    def push(self) -> None:
        """Upload changed files, and remove deleted ones from the store."""
        began = time.monotonic()
        local = _files(self._folder)
        changed = [file for file, stat in local.items() if self._pushed.get(file) != stat]
        for file in sorted(changed, key=lambda file: local[file][1]):  # in the order of writing: a result comes last
            self._stamps[file] = self._store.put(self._folder / file, f"{self._name}/{file}")
            self._pushed[file] = local[file]
        deleted = [file for file in self._pushed if file not in local]
        for file in deleted if (self._folder / RECORD).exists() else ():  # without it, the whole copy was removed
            self._store.remove(f"{self._name}/{file}")
            del self._pushed[file]
            self._stamps.pop(file, None)
        if changed:
            self._record(self._stamps)
        self._last = time.monotonic()
        self._took = self._last - began

    def _record(self, stamps: dict[str, str]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / RECORD).write_text(json.dumps({"there": stamps}), encoding="utf-8")


def _files(folder: Path) -> dict[str, tuple[int, int]]:
    """All files under a folder with size and modification time (ns), without hidden files and locks."""
    stats = {}
    for path in folder.rglob("*"):
        if path.is_file() and not path.name.startswith(".") and path.name != "lock":
            stat = path.stat()
            stats[str(path.relative_to(folder))] = (stat.st_size, stat.st_mtime_ns)
    return stats


def fetch(store: RemoteStore, name: str, folder: Path) -> None:
    """Download a remote folder atomically, unless the local folder exists or the store has none.

    Raises `UserError` before anything is written, if the store names a file outside the folder.
    """
    if folder.exists() or not (stamps := store.files(name)):
        return
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    for file, path in [(file, inside(part, file)) for file in stamps]:
        store.get(f"{name}/{file}", path)
    os.replace(part, folder)
