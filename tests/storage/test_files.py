"""Writing whole files or none, and locks that die with their holder."""

import errno
import os
import subprocess
import sys

import pytest

from harness.errors import UserError
from harness.storage import files, sealed_json, weights, workspace


def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("save", [sealed_json.write_json, weights.save_weights])
def test_a_full_disk_is_one_line_and_leaves_what_was_there(tmp_path, monkeypatch, save):
    file = tmp_path / "kept.json"
    save(file, {"a": 1})
    before = file.read_bytes()
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left") as mistake:
        save(file, {"a": 2})
    assert str(file) in str(mistake.value) and "\n" not in str(mistake.value)
    assert file.read_bytes() == before and list(tmp_path.iterdir()) == [file]


def test_a_folder_that_cannot_be_written_is_named():
    with pytest.raises(UserError, match="/proc/nowhere"):
        workspace.Workspace(files.Path("/proc/nowhere")).writable()


def test_json_comes_back_and_garbage_is_set_aside(tmp_path):
    file = tmp_path / "a.json"
    assert sealed_json.read_json(file) is None
    sealed_json.write_json(file, {"x": [1.5, None]})
    assert sealed_json.read_json(file) == {"x": [1.5, None]}
    file.write_bytes(b"\xff\xfe{")
    with pytest.warns(UserWarning, match=r"a\.json"):
        assert sealed_json.read_json(file) is None
    assert (tmp_path / "a.json.damaged").read_bytes() == b"\xff\xfe{"


def test_a_lock_is_held_by_one_and_freed_by_death(tmp_path):
    lock = tmp_path / "lock"
    code = (
        "from pathlib import Path\nfrom harness.storage.files import *\n"
        f"with locked(Path({str(lock)!r})): print('held', flush=True); input()"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stdin=subprocess.PIPE)
    assert holder.stdout.readline() == b"held\n"
    with files.locked(lock, wait=False) as free:
        assert not free
    holder.kill()
    holder.wait()
    holder.stdout.close(), holder.stdin.close()
    with files.locked(lock, wait=False) as free:
        assert free
