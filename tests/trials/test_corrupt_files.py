"""A file that was cut short or garbled is set aside and made again: the numbers are those of an undisturbed run."""

import errno
import os
import shutil
import zipfile

import numpy as np
import pytest
import torch

from harness.errors import UserError
from harness.storage import files
from harness.storage.files import digest
from harness.storage.sealed_json import read_json, write_json
from harness.storage.weights import load_weights, save_weights
from harness.storage.workspace import Workspace
from harness.trials import run

pytestmark = pytest.mark.fault


def cut(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def emptied(file):
    file.write_bytes(b"")


def flipped(file):
    """One bit, in the midst of what it holds."""
    content = bytearray(file.read_bytes())
    content[_inside(file, content)] ^= 4
    file.write_bytes(content)


def _inside(file, content):
    if not zipfile.is_zipfile(file):
        return len(content) * 2 // 3
    with zipfile.ZipFile(file) as members:
        largest = max(members.infolist(), key=lambda member: member.compress_size)
    return largest.header_offset + 30 + len(largest.filename) + 64 + largest.compress_size // 2


class Stop(BaseException):
    pass


@pytest.fixture(scope="module")
def sat(request):
    from conftest import QUICK

    from harness.config.trial import build

    return build({**QUICK, "method": "sat", "maps.saliency": "gradient", "epochs": 3})


@pytest.fixture(scope="module")
def states(tmp_path_factory, sat):
    """A trial undisturbed; and the folder as it was after its second epoch, in its measuring, and at its end."""
    root = tmp_path_factory.mktemp("states")
    workspace = Workspace(root / "out", root / "data").writable()

    def after_two(row):
        if row["epoch"] == 2:
            raise Stop

    with pytest.raises(Stop):
        run.run(sat, workspace, report=after_two)
    shutil.copytree(workspace.out, root / "training")
    with pytest.MonkeyPatch.context() as patch:
        kept = run.Ledger.write

        def once(self, key, scores):
            kept(self, key, scores)
            if self.folder:
                raise Stop

        patch.setattr(run.Ledger, "write", once)
        with pytest.raises(Stop):
            run.run(sat, workspace)
    shutil.copytree(workspace.out, root / "measuring")
    run.run(sat, workspace)
    shutil.copytree(workspace.out, root / "trained")
    return root, figures(run.run(sat, workspace, test=True), workspace)


def figures(result, workspace):
    """What must not change: every score and row, and the weights."""
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in result.rows]
    weights = load_weights(workspace.trial(result.trial.key) / "weights.pt")
    return [s.record() for s in result.scores], rows, {name: w.numpy().tobytes() for name, w in weights.items()}


@pytest.mark.sample(
    "training-trials/{key}/checkpoint.pt-cut",
    "training-cache/maps/*/maps.npy-flipped",
    "trained-trials/{key}/result.json-emptied",
)
@pytest.mark.parametrize("damage", [cut, emptied, flipped])
@pytest.mark.parametrize(
    ("state", "file"),
    [
        ("training", "trials/{key}/checkpoint.pt"),
        ("training", "trials/{key}/trial.json"),
        ("training", "cache/maps/*/maps.npy"),
        ("training", "cache/maps/*/costs.json"),
        ("training", "cache/data/*/train-x.npy"),
        ("training", "cache/data/*/val-y.npy"),
        ("training", "cache/data/*/meta.json"),
        ("measuring", "trials/{key}/measuring-val/*.npz"),
        ("measuring", "trials/{key}/measuring-val/*.json"),
        ("trained", "trials/{key}/weights.pt"),
        ("trained", "trials/{key}/result.json"),
    ],
)
def test_it_heals(states, sat, tmp_path, state, file, damage):
    root, undisturbed = states
    shutil.copytree(root / state, tmp_path / "out")
    workspace = Workspace(tmp_path / "out", tmp_path / "data").writable()
    damaged = next(workspace.out.glob(file.format(key=sat.key)))
    damage(damaged)
    with pytest.warns(UserWarning, match="is damaged and will be recreated"):
        result = run.run(sat, workspace, test=True)
    assert figures(result, workspace) == undisturbed
    assert list(workspace.out.rglob("*.damaged")) or damaged.name == "meta.json"  # which is decoded with all its folder


def test_what_is_whole_is_not_made_again(states, sat, tmp_path):
    root, undisturbed = states
    shutil.copytree(root / "trained", tmp_path / "out")
    workspace = Workspace(tmp_path / "out", tmp_path / "data").writable()
    before = {p: p.stat().st_mtime_ns for p in workspace.out.rglob("*") if p.suffix in (".npy", ".pt")}
    assert figures(run.run(sat, workspace, test=True), workspace) == undisturbed
    assert all(p.stat().st_mtime_ns == at for p, at in before.items())


def test_every_bit_of_saved_weights_counts(tmp_path):
    """Torch itself reads garbled tensors without a word."""
    file = tmp_path / "w.pt"
    save_weights(file, {"w": torch.zeros(64)})
    flipped(file)
    assert torch.load(file, weights_only=True)["w"].abs().sum() > 0
    with pytest.raises(files.CorruptFile, match="damaged zip file"):
        load_weights(file)


def test_every_character_of_a_json_file_counts(tmp_path):
    file = tmp_path / "a.json"
    value = {"score": 0.4375, 7: [1, float("inf")], "deep": {"b": None}}
    write_json(file, value)
    assert read_json(file) == {"score": 0.4375, "7": [1, float("inf")], "deep": {"b": None}}
    file.write_text(file.read_text().replace("0.4375", "0.4275"))
    with pytest.warns(UserWarning, match=r"a\.json"):
        assert read_json(file) is None
    assert not file.exists() and (tmp_path / "a.json.damaged").exists()


def test_a_digest_is_read_once_and_notices_a_change(tmp_path, monkeypatch):
    file = tmp_path / "a.npy"
    np.save(file, np.arange(9))
    first = digest(file)
    with monkeypatch.context() as patch:
        patch.setattr(files.hashlib, "file_digest", lambda *of: pytest.fail("read again"))
        assert digest(file) == first
    np.save(file, np.arange(9)[::-1])
    os.utime(file, ns=(1, 1))
    assert digest(file) != first


@pytest.mark.sample(1)
@pytest.mark.parametrize("which", range(1, 8))
def test_a_disk_that_is_full_for_a_moment_loses_nothing(states, sat, tmp_path, monkeypatch, which):
    """The n-th file that is written finds no room: one line, and run again it ends as if nothing had been."""
    workspace = Workspace(tmp_path / "out", tmp_path / "data").writable()
    count, sync = 0, os.fsync

    def full(descriptor):
        nonlocal count
        count += 1
        if count == which:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(UserError, match="No space left on device"):
        run.run(sat, workspace, test=True)
    assert figures(run.run(sat, workspace, test=True), workspace) == states[1]
