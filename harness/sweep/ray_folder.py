"""The folder of a local Ray cluster: sessions, logs, sockets and its token, out of reach of other users.

Ray makes the folders of its sessions writable to everybody. Whoever reaches them can link a log to a file that Ray then
overwrites, or listen at a socket in Ray's place. So they lie in a new folder (mode 0700) in the temporary folder, which
is removed at the end. The command holds a lock (flock) on it; the kernel releases the lock of a killed command, and the
next command of the same user removes what has none.
"""

import contextlib
import fcntl
import os
import secrets
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from harness.errors import UserError, complain
from harness.sweep import ray_internals

PREFIX = "hray-"
ROOT = "r"  # folder of the sessions, within the private one: Ray lets everybody write to the folder that it is given
TOKEN = "token"  # file
RUN = "ray"  # folder of a run of Ray Tune, temporary, under the output folder
SOCKET_BYTES = 103 if sys.platform == "darwin" else 107  # limit on a socket's path
REMOVAL_SECONDS = 5.0  # in which the processes of a cluster that has ended stop writing
FALLBACKS = ("/tmp", "/var/tmp", "/dev/shm")  # where the system's temporary folder does not serve
_NAME = f"{PREFIX}{'x' * 8}"  # as mkdtemp makes it
PARENT_BYTES = SOCKET_BYTES - len(f"/{_NAME}/{ROOT}/{ray_internals.LONGEST_SOCKET}")


@contextlib.contextmanager
def private_folder() -> Iterator[Path]:
    """A new folder that only this user can reach, with a token for a cluster; removed at the end.

    It lies in $RAY_TMPDIR, else in the system's temporary folder, or, where the paths of sockets would be too long or
    others could rename it, in another one. Raises `UserError` if there is none. Folders that killed commands of this
    user left there are removed.
    """
    parent = _parent()
    if _others_may_rename(parent):
        complain(
            f"warning: other users can write to {str(parent)!r}, and could replace Ray's sockets there;"
            " set RAY_TMPDIR to a folder of yours"
        )
    else:
        remove_leftovers(parent)
    folder, lock = _locked_folder(parent)
    try:
        with open(os.open(folder / TOKEN, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
            file.write(secrets.token_hex(32))
        yield folder
    finally:
        _remove(folder)
        os.close(lock)


@contextlib.contextmanager
def environment(folder: Path) -> Iterator[None]:
    """Within, a cluster that starts answers only to who has the token in the folder, whatever the user has set.

    Its processes turn no warning into an error: Ray's own deprecations would end them.
    """
    names = (ray_internals.AUTH_MODE, ray_internals.AUTH_TOKEN, ray_internals.AUTH_TOKEN_PATH, "PYTHONWARNINGS")
    before = {name: os.environ.pop(name, None) for name in names}
    os.environ |= {ray_internals.AUTH_MODE: "token", ray_internals.AUTH_TOKEN_PATH: str(folder / TOKEN)}
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def remove_leftovers(parent: Path) -> None:
    """Remove private folders of this user whose command has ended. Links are not followed."""
    for path in parent.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # another user's, a link, locked by a live command, or no longer there
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                if os.fstat(lock).st_uid == os.geteuid():
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(path)
            finally:
                os.close(lock)


def _parent() -> Path:
    """Where the private folder is made."""
    if given := os.environ.get("RAY_TMPDIR"):
        parent = Path(given).absolute()
        if len(os.fsencode(parent)) > PARENT_BYTES:
            raise UserError(
                f"RAY_TMPDIR {given!r} is too long for the paths of Ray's sockets: at most {PARENT_BYTES} bytes,"
                f" not {len(os.fsencode(parent))}"
            )
        try:
            parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot write to RAY_TMPDIR {given!r}: {error.strerror}") from None
        return parent
    named = list(dict.fromkeys([os.path.abspath(tempfile.gettempdir()), *FALLBACKS]))
    usable = [Path(name) for name in named if _is_usable(Path(name))]
    if not usable:
        raise UserError(
            f"no folder for Ray's sockets: {', '.join(named)} cannot be written to, or are longer than"
            f" {PARENT_BYTES} bytes; set RAY_TMPDIR to a short folder of yours"
        )
    return next((parent for parent in usable if not _others_may_rename(parent)), usable[0])


def _is_usable(parent: Path) -> bool:
    """Whether a folder is there, can be written to, and leaves room for the paths of sockets."""
    short = len(os.fsencode(parent)) <= PARENT_BYTES
    return short and parent.is_dir() and os.access(parent, os.W_OK | os.X_OK)


def _others_may_rename(folder: Path) -> bool:
    """Whether a user other than this one and root can replace what lies in a folder, or the folder itself."""
    resolved = folder.resolve()
    for path in (resolved, *resolved.parents):
        status = path.stat()
        shared = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not status.st_mode & stat.S_ISVTX
        if shared or status.st_uid not in (0, os.geteuid()):
            return True
    return False


def _locked_folder(parent: Path) -> tuple[Path, int]:
    """A new private folder, and the open file that holds its lock."""
    while True:
        try:
            folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        except OSError as error:
            raise UserError(f"cannot make Ray's folder in {str(parent)!r}: {error.strerror}; set RAY_TMPDIR") from None
        with contextlib.suppress(FileNotFoundError):  # another command took it for a leftover, before it was locked
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            with contextlib.suppress(OSError):  # a file system without locks: nobody else gets one there either
                fcntl.flock(lock, fcntl.LOCK_EX)
            if folder.exists():  # its name is not used twice
                return folder, lock
            os.close(lock)


def _remove(folder: Path) -> None:
    """Remove the folder of a cluster, whose processes may be ending."""
    deadline = time.monotonic() + REMOVAL_SECONDS
    shutil.rmtree(folder, ignore_errors=True)
    while folder.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
        shutil.rmtree(folder, ignore_errors=True)
