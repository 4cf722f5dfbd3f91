"""Workspace of a run: output folder, data root and device, with optional remote (fsspec) storage."""

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import UserError
from harness.storage.contained_path import inside
from harness.storage.files import locked

if TYPE_CHECKING:
    from harness.storage.driver_files import DriverFiles
    from harness.storage.remote_store import FolderCopy


@dataclass(frozen=True)
class Workspace:
    """Paths and device of a run; none of them changes a score.

    out: folder of all output. data: root of the data sets, one folder each. device: as torch names it. remote: the URI
    that `out` is this node's copy of, if any. scratch: folder for caches of this node. remote_data: the URI that `data`
    is this node's copy of, if any.
    """

    out: Path = Path("runs")
    data: Path = Path("data")
    device: str = "cpu"
    remote: str = ""
    scratch: Path | None = None
    remote_data: str = ""

    def trial(self, key: str) -> Path:
        """The folder of a trial."""
        return self.out / "trials" / key

    def teacher(self, key: str) -> Path:
        """The folder of a teacher."""
        return self.out / "teachers" / key

    def plugin(self, digest: str) -> Path:
        """The folder of the kept source of a plug-in."""
        return self.out / "plugins" / digest

    def cache(self, *parts: str) -> Path:
        """A cache path shared by all nodes."""
        return self.out.joinpath("cache", *parts)

    def node_cache(self, *parts: str) -> Path:
        """A cache path of this node."""
        return (self.scratch or self.cache()).joinpath(*parts)

    @contextlib.contextmanager
    def synchronised(self, folder: Path, *, alone: bool = False) -> Iterator[Callable[[], None]]:
        """Pull a folder of `out` from the remote store, if there is one, and push it at the end.

        Yields a function to call after writing to the folder: it pushes changes now and then, in case this node dies.
        alone: first wait for the last push of any other process of this node that asked for this. A trial that was
        stopped is still pushing when an equal one begins.
        """
        if not self.remote:
            yield lambda: None
            return
        copy = self._copy(folder)
        with locked(folder / ".copy.lock") if alone else contextlib.nullcontext():
            copy.pull()
            try:
                yield copy.push_if_due
            finally:
                copy.push()

    def _copy(self, folder: Path) -> "FolderCopy":
        from harness.storage import remote_store

        store = remote_store.open_store(self.remote)
        return remote_store.FolderCopy(store, folder.relative_to(self.out).as_posix(), folder)

    def fetched(self, folder: Path) -> Path:
        """A folder of `out`, pulled from the remote store if there is one."""
        if self.remote:
            self._copy(folder).pull()
        return folder

    def has(self, file: Path) -> bool:
        """Whether a file of `out` exists, here or in the remote store."""
        if not self.remote:
            return file.exists()
        from harness.storage import remote_store

        return remote_store.open_store(self.remote).exists(file.relative_to(self.out).as_posix())

    def sizes(self) -> dict[str, int]:
        """Bytes of every file of `out`, by its path relative to it; of a URI, what the store has."""
        if self.remote:
            from harness.storage import remote_store

            return remote_store.open_store(self.remote).sizes()
        found = {}
        for folder, _, names in os.walk(self.out):
            for path in (Path(folder, name) for name in names):
                with contextlib.suppress(OSError):  # a temporary file that is gone
                    found[path.relative_to(self.out).as_posix()] = path.stat().st_size
        return found

    def remove(self, name: str) -> None:
        """Remove a file of `out`, by its path relative to it, here and in the remote store.

        Raises `UserError` if it cannot be removed, or does not lie in `out`.
        """
        file = inside(self.out, name)
        try:
            file.unlink(missing_ok=True)
        except OSError as error:
            raise UserError(f"cannot remove {str(file)!r}: {error.strerror}") from None
        if self.remote:
            from harness.storage import remote_store

            remote_store.open_store(self.remote).remove(name)

    @contextlib.contextmanager
    def single_writer(self) -> Iterator["DriverFiles | None"]:
        """Lock `out` for one command at a time, its driver. Yields None if another command holds the lock.

        The driver's files (journal, event logs, reports) are synchronised with the remote store, if there is one.
        """
        from harness.storage.driver_files import DriverFiles

        with contextlib.ExitStack() as stack:
            if not stack.enter_context(locked(self.out / "lock", wait=False)):
                yield None
                return
            lock = None
            if self.remote:
                from harness.storage import driver_lock, remote_store

                lock = stack.enter_context(driver_lock.driver_lock(remote_store.open_store(self.remote)))
                if lock is None:
                    yield None
                    return
            driver_files = DriverFiles(self.out, lock)
            driver_files.pull()
            yield stack.enter_context(driver_files.pushing())

    @contextlib.contextmanager
    def writing(self, folder: Path) -> Iterator[None]:
        """Lock one folder of `out` for a command, and wait for it if another one has it; at a URI, all of `out`.

        Raises `UserError` if a command that needs all of `out`, such as a sweep, is writing there.
        """
        if self.remote:
            with self.single_writer() as driver_files:
                self._refuse_unless(driver_files is not None)
                yield
            return
        with locked(self.out / "lock", wait=False, shared=True) as free:
            self._refuse_unless(free)
            with locked(folder / "lock"):
                yield

    def _refuse_unless(self, free: bool) -> None:
        if not free:
            raise UserError(
                f"another command is writing to {self.remote or str(self.out)!r}; wait for it, or choose another --out"
            )

    def fetch(self, name: str) -> None:
        """Download the folder of a data set, once per node, if the data root is a URI."""
        if self.remote_data and Path(name).name == name.strip("."):  # no path that leaves the root
            from harness.storage import remote_store

            with locked(self.data / f"{name}.lock"):
                remote_store.fetch(remote_store.open_store(self.remote_data), name, self.data / name)

    def writable(self) -> "Workspace":
        """Create the folders. Raises `UserError` if `out` is not writable, or `scratch` belongs to another user."""
        try:
            if self.scratch:
                self.scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
                made_link = self.scratch.lstat().st_uid  # of a link, who made it: others could in a shared folder
                if self.scratch.stat().st_uid != os.getuid() or made_link not in (0, os.getuid()):
                    raise UserError(
                        f"{str(self.scratch)!r} belongs to another user; set HARNESS_SCRATCH to a folder of yours"
                    )
            self.out.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.out):
                pass
        except OSError as error:
            raise UserError(f"cannot write to {str(self.out)!r}: {error.strerror}; choose another --out") from None
        return self
