"""Other users of the machine, whom only root can act as; and what one of them can do to somebody's folder."""

import json
import os
import shutil
import subprocess
import sys

import pytest

STRANGER = 65534  # "nobody"; the tests own nothing as this user
NAMELESS = 54321  # without an entry in the passwd file, as in a container that is given any user id
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")

ATTACK = """
import json, os, socket, sys
folder, stranger = sys.argv[1], int(sys.argv[2])
os.setgroups([])
os.setresgid(stranger, stranger, stranger)
os.setresuid(stranger, stranger, stranger)
inside = [os.path.join(folder, *parts) for parts in json.loads(sys.argv[3])]
files, sockets, folders = inside

def listen():
    socket.socket(socket.AF_UNIX).bind(os.path.relpath(folders + "/own"))

def connect():
    socket.socket(socket.AF_UNIX).connect(os.path.relpath(sockets))

attempts = {
    "list": lambda: os.listdir(folder),
    "list inside": lambda: os.listdir(folders),
    "read": lambda: open(files).read(),
    "write": lambda: open(files, "a"),
    "make": lambda: open(folders + "/planted", "w"),
    "link": lambda: os.symlink("/etc/passwd", folders + "/link"),
    "remove": lambda: os.remove(files),
    "rename a socket": lambda: os.rename(sockets, sockets + ".old"),
    "listen": listen,
    "connect": connect,
    "rename the folder": lambda: os.rename(folder, folder + ".old"),
    "open it to all": lambda: os.chmod(folder, 0o777),
}
done = {}
for name, attempt in attempts.items():
    try:
        attempt()
        done[name] = "done"
    except Exception as error:
        done[name] = type(error).__name__
print(json.dumps(done))
"""


def attacked(folder, file, socket, inside):
    """What becomes of a stranger's attempts on a folder, by name: "done", or the name of an exception.

    file, socket, inside: parts of the paths of a file, a socket and a folder below it.
    """
    parts = json.dumps([file, socket, inside])
    # The stranger may not be allowed to read the interpreter, so it is root that starts it.
    words = [sys.executable, "-c", ATTACK, str(folder), str(STRANGER), parts]
    done = subprocess.run(words, capture_output=True, text=True, cwd=folder.parent)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def as_nameless(*words):
    """The command, as a user who can read every file (the interpreter's, too) and has no name and no home."""
    may = ["--inh-caps", "-all,+dac_read_search", "--ambient-caps", "-all,+dac_read_search"]
    return ["setpriv", "--reuid", str(NAMELESS), "--regid", str(NAMELESS), "--clear-groups", *may, "--", *words]


def can_be_nameless():
    """Whether commands can be run so."""
    if os.geteuid() != 0 or not shutil.which("setpriv"):
        return False
    return subprocess.run(as_nameless(sys.executable, "-c", ""), capture_output=True).returncode == 0
