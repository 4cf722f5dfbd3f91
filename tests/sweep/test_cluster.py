"""The same command on a Ray cluster: as a job, from outside, with a node killed; and the files that make clusters."""

import contextlib
import copy
import csv
import gc
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import weakref
import zipfile
from pathlib import Path

import fault_injection
import jsonschema
import optuna
import pytest
import ray
import yaml
from mlflow import MlflowClient
from other_user import STRANGER
from sweeps import LIMIT, finished, report, suffered, suffering, until

from harness import cli, tune
from harness.config.trial import build
from harness.errors import UserError
from harness.storage import provenance
from harness.storage.workspace import Workspace
from harness.sweep import cluster as sweep_cluster
from harness.sweep import optuna_journal, plan, ray_addresses, ray_internals, trial_slots
from harness.sweep.request import Request
from harness.trials import run

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
COMMAND = "python -m harness.tune --space sat --address auto --out /shared/runs --gpus 0.25"
QUICK = ["--space", "smoke", "--trials", "1", "--set", "epochs=2"]
needs_dashboard = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("grpc", "aiohttp_cors", "opencensus")),
    reason="ray[default] is not installed: pip install -c constraints.txt -e .[cluster]",
)


def free_ports(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]


START = (  # `ray start`; Ray has no option that lets a second node join and still listen on loopback only
    "from ray._private import ray_constants, services; from ray.scripts import scripts;"
    "services.get_node_ip_address = lambda address=None: '127.0.0.1';"
    "ray_constants.ENABLE_RAY_CLUSTER = True; scripts.start()"
)


@contextlib.contextmanager
def ray_node(folder, environment, *words):
    """`ray start --block` with these words, as a process; ends with all of its descendants."""
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", START, "--block", "--num-cpus", "1", "--temp-dir", str(folder), *words],
            env=environment,
            cwd=folder,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            kill_all(process)


def processes():
    """process id -> (parent's id, command line), of all that run."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has just ended
            parent = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()[1]
            title = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            found[int(folder.name)] = (int(parent), title.strip())
    return found


def kill_all(process):
    """kill -9 of a process and its descendants. Returns the command lines of those that were there."""
    if process.poll() is not None:
        return []
    there = processes()
    family = [process.pid]
    for member in family:
        family += [pid for pid, (parent, _) in there.items() if parent == member]
    for member in family:
        with contextlib.suppress(ProcessLookupError):
            os.kill(member, signal.SIGKILL)
    process.wait()
    return [there[member][1] for member in family if member in there]


def listens(port):
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) == 0


def environment(**more):
    """Of a cluster on loopback that takes nobody without its token, and notices the loss of a node soon."""
    return {
        **{k: v for k, v in os.environ.items() if not k.startswith("RAY_")},
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "0123456789abcdef" * 2,
        "RAY_health_check_initial_delay_ms": "1000",
        "RAY_health_check_period_ms": "500",
        "RAY_health_check_timeout_ms": "60000",  # who is dead refuses at once, who is busy answers late
        "RAY_health_check_failure_threshold": "3",
        "RAY_CLIENT_SERVER_CHECK_CHANNEL_TIMEOUT_S": "600",
        "RAY_CLIENT_MAX_CONNECTION_TIMEOUT_S": "600",
        "RAY_worker_register_timeout_seconds": "600",
        "RAY_worker_niceness": "0",
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        **more,
    }


@pytest.fixture
def short():
    """A temporary folder with a short path: Ray's sockets lie in it, and their names are limited to 107 bytes."""
    folder = Path(tempfile.mkdtemp(prefix="ray"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A cluster of one node with its dashboard and its server for clients: addresses of these, and its own."""
    folder = Path(tempfile.mkdtemp(prefix="ray"))
    gcs, client, dashboard, *agents = free_ports(6)
    ports = ["--port", str(gcs), "--ray-client-server-port", str(client), "--dashboard-port", str(dashboard)]
    ports += ["--dashboard-agent-listen-port", str(agents[0]), "--dashboard-agent-grpc-port", str(agents[1])]
    ports += ["--metrics-export-port", str(agents[2])]
    with ray_node(folder, environment(), "--head", "--include-dashboard", "true", *ports) as process:

        def up():
            return listens(client) and listens(dashboard) and "Ray runtime started" in text(folder)

        until(up, process, lambda: text(folder))
        yield f"http://127.0.0.1:{dashboard}", f"ray://127.0.0.1:{client}", f"127.0.0.1:{gcs}"
    shutil.rmtree(folder, ignore_errors=True)


def text(folder):
    return (folder / "log").read_text()


@pytest.fixture(scope="module")
def store(tmp_path_factory, empty_store):
    """An output folder with an empty tracking database."""
    out = tmp_path_factory.mktemp("store")
    shutil.copy(empty_store, out / "mlflow.db")
    return out


@pytest.fixture(scope="module")
def as_job(cluster, store, tmp_path_factory):
    out = tmp_path_factory.mktemp("job") / "runs"
    shutil.copytree(store, out)
    command = [sys.executable, "-m", "harness.tune", *QUICK, "--address", "auto", "--out", str(out)]
    submit = [sys.executable, "-m", "ray.scripts.scripts", "job", "submit", "--address", cluster[0]]
    submit += ["--runtime-env-json", json.dumps({"env_vars": {provenance.COMMIT: "c0ffee"}})]
    return out, finished([*submit, "--working-dir", ".", "--", *command], env=environment())


@pytest.mark.cluster
@needs_dashboard
def test_a_job_runs_the_sweep_and_leaves_all_in_the_shared_folder(as_job):
    out, done = as_job
    assert done.returncode == 0, done.stdout + done.stderr
    assert "succeeded" in done.stdout and f"report: {report(out, 'md')}\n" in done.stdout
    results = [json.loads(file.read_text()) for file in out.glob("trials/*/result.json")]
    assert len(results) == 4
    assert {(r["machine"]["git"], r["machine"]["sources"]) for r in results} == {("c0ffee", provenance.digest())}


@pytest.mark.cluster
@needs_dashboard
def test_from_outside_the_same_command_gives_what_the_job_left(as_job, cluster):
    """Nothing is left to run, so this is the way there and back: package, head node, output, status."""
    out, _ = as_job
    before = {p: p.stat().st_mtime_ns for p in out.glob("trials/*/result.json")}
    words = [*QUICK, "--address", cluster[1], "--out", str(out)]
    done = finished([sys.executable, "-m", "harness.tune", *words], env=environment())
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.startswith("smoke-digits: 2 cells") and f"report: {report(out, 'md')}\n" in done.stdout
    assert "(pid=" not in done.stdout
    assert {p: p.stat().st_mtime_ns for p in before} == before


@pytest.mark.cluster
@needs_dashboard
def test_ctrl_c_outside_stops_the_command_inside(cluster, store, tmp_path):
    out = tmp_path / "runs"
    shutil.copytree(store, out)
    words = ["--space", "smoke", "--trials", "1", "--set", "epochs=400", "--address", cluster[1], "--out", str(out)]
    process = subprocess.Popen(
        [sys.executable, "-m", "harness.tune", *words],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        until(lambda: list(out.glob("trials/*/checkpoint.pt")), process)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=LIMIT)
    finally:
        process.kill()
    assert process.returncode == 130, said
    assert f"--address {cluster[1]}" in said and "Traceback" not in said
    assert not [title for _, title in processes().values() if f"--out {out}" in title]  # here and on the cluster
    (log,) = out.glob("track/*.jsonl")
    begun = [event["begin"]["tags"] for event in map(json.loads, log.read_text().splitlines()) if "begin" in event]
    assert {tags["harness.git"] for tags in begun} == {provenance.code()["git"]}  # of the checkout that was sent


@pytest.mark.cluster
@needs_dashboard
def test_what_the_command_says_inside_is_said_outside(cluster, tmp_path):
    words = [*QUICK, "--address", cluster[1], "--out", str(tmp_path / "o"), "--cpus", "9"]
    done = finished([sys.executable, "-m", "harness.tune", *words], env=environment())
    assert done.returncode == 2
    assert done.stderr == "error: a trial asks for 9 CPU, but the largest node has 1\n"


WITHOUT = {"RAY_AUTH_MODE": None, "RAY_AUTH_TOKEN": None}
TOKENS = [
    (WITHOUT, "asks for a token: set RAY_AUTH_MODE=token, and give the cluster's by RAY_AUTH_TOKEN, "),
    ({"RAY_AUTH_MODE": None}, "asks for a token: set RAY_AUTH_MODE=token\n"),
    ({"RAY_AUTH_TOKEN": "f" * 64}, "has another token: give the cluster's by RAY_AUTH_TOKEN, "),
    (
        {"RAY_AUTH_TOKEN": None},
        "RAY_AUTH_MODE is 'token', but there is no token: give the cluster's by RAY_AUTH_TOKEN, ",
    ),
]


@pytest.mark.cluster
@needs_dashboard
@pytest.mark.parametrize("change, said", TOKENS)
def test_what_is_missing_of_the_token_is_named_at_once(cluster, tmp_path, change, said):
    """By the cluster's own address and by its server of clients, each in the place of 40 seconds of silence."""
    env = {k: v for k, v in (environment() | change | {"HOME": str(tmp_path)}).items() if v is not None}
    for address in cluster[1:]:
        words = [*QUICK, "--address", address, "--out", str(tmp_path / "o")]
        done = finished([sys.executable, "-m", "harness.tune", *words], env=env)
        assert done.returncode == 2 and done.stderr.count("\n") == 1 and said in done.stderr, done.stderr


@contextlib.contextmanager
def two_nodes(folder, env, *head_words):
    """A cluster of two nodes: (the process of the head node, that of the other, its address)."""
    (gcs,) = free_ports(1)
    for name in ("head", "node"):
        (folder / name).mkdir()
    with ray_node(folder / "head", env, "--head", "--port", str(gcs), *head_words) as head:
        until(lambda: "Ray runtime started" in text(folder / "head"), head, lambda: text(folder / "head"))
        with ray_node(folder / "node", env, "--address", f"127.0.0.1:{gcs}") as node:
            until(lambda: "Ray runtime started" in text(folder / "node"), node, lambda: text(folder / "node"))
            yield head, node, f"127.0.0.1:{gcs}"


def under_way(out):
    folders = {p.parent for p in out.glob("trials/*/checkpoint.pt")}
    return [f for f in folders if not (f / "result.json").exists()]


def assert_each_of_four_trials_once(out, epochs):
    """In files, MLflow with its whole history, Optuna and the board, of a sweep of one trial and seed a cell."""
    records = [json.loads(p.read_text()) for p in out.glob("trials/*/result.json")]
    assert len(records) == 4
    with open(report(out, "csv"), newline="") as file:
        assert sorted(row["cell"] for row in csv.DictReader(file)) == ["sat", "standard"]

    client = MlflowClient(tracking_uri=f"sqlite:///{out}/mlflow.db")
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    children = [r for r in runs if r.data.tags["harness.role"] in ("search", "seed")]
    assert len(children) == len({r.data.tags["harness.job"] for r in children}) == 4
    assert {r.info.status for r in children} == {"FINISHED"}
    for r in children:
        assert [m.step for m in client.get_metric_history(r.info.run_id, "train/ce")] == list(range(1, epochs + 1))
    storage = optuna_journal.open_journal(out / "optuna.journal")
    for name in optuna.get_all_study_names(storage):
        study = optuna.load_study(study_name=name, storage=storage)
        assert [t.state.name for t in study.trials] == ["COMPLETE"]
    return records


@pytest.mark.cluster
@pytest.mark.fault
def test_a_node_that_is_killed_costs_nothing_but_time(store, short, tmp_path):
    """One trial a cell: then no proposal, and no stop, depends on which trial ended first."""
    out = tmp_path / "runs"
    shutil.copytree(store, out)
    words = ["--space", "smoke", "--trials", "1", "--seeds", "1", "--set", "epochs=8", "--out", str(out)]
    # The two that run at once, whoever trains the first one, which is the other cell's teacher.
    waiting = [["waits", "standard", 1, None, 4], ["waits", "sat", 0, None, 4]]
    env = environment(**suffered(waiting))
    with two_nodes(short, env, "--include-dashboard", "false") as (_, node, address):
        command = subprocess.Popen(
            suffering(*words, "--address", address),
            cwd=ROOT,
            env=env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            until(lambda: len(under_way(out)) == 2, command, lambda: text(short / "node"))  # one on each node
            killed = kill_all(node)
            assert any(title.startswith("ray::ImplicitFunc") for title in killed), killed
            fault_injection.go_on(out)
            _, said = command.communicate(timeout=LIMIT)
        finally:
            command.kill()
            command.wait()
    assert command.returncode == 0, said

    for record in assert_each_of_four_trials_once(out, 8):  # bit for bit what an undisturbed trial gives
        tested = any(score["name"].startswith("test/") for score in record["scores"])
        assert tested == (record["trial"]["seed"] > 0)
        alone = run.run(build(record["trial"]), Workspace(tmp_path / "alone", tmp_path / "data"), test=tested)
        assert record["scores"] == [json.loads(json.dumps(score.record())) for score in alone.scores]


def test_no_reference_is_collected_by_another_thread_while_ray_shuts_down(monkeypatch):
    """Ray would end the process: a core worker that has been shut down knows no references."""

    class Cycle:
        pass

    left = Cycle()
    left.itself = left
    kept, seen = weakref.ref(left), []
    del left
    monkeypatch.setattr(ray, "shutdown", lambda: seen.append((kept(), gc.isenabled())))
    sweep_cluster.shut_down()
    assert seen == [(None, False)] and gc.isenabled()


@pytest.mark.cluster
@pytest.mark.fault
def test_a_node_killed_under_two_sweeps_costs_neither_a_trial(store, short, tmp_path):
    """Both share a cluster, and then the node that is left."""
    outs = [tmp_path / "first", tmp_path / "second"]
    env = environment(**suffered([["waits", "standard", 0, None, 4]]))  # of each sweep the one that comes first
    with two_nodes(short, env, "--include-dashboard", "false") as (_, node, address), contextlib.ExitStack() as stack:
        commands = []
        for out in outs:
            shutil.copytree(store, out)
            words = ["--space", "smoke", "--trials", "1", "--seeds", "1", "--set", "epochs=8", "--out", str(out)]
            words += ["--workers", "1"]  # a sweep keeps a worker that has no job, and its slot
            log = stack.enter_context(open(tmp_path / f"{out.name}.log", "w"))
            commands.append(
                subprocess.Popen(suffering(*words, "--address", address), cwd=ROOT, env=env, stdout=log, stderr=log)
            )
            stack.callback(commands[-1].wait)
            stack.callback(commands[-1].kill)
        for out, command in zip(outs, commands, strict=True):
            until(lambda out=out: under_way(out), command, (tmp_path / f"{out.name}.log").read_text)
        killed = kill_all(node)
        assert any(title.startswith("ray::ImplicitFunc") for title in killed), killed
        for out in outs:  # both before either ends: the node that is left has room for one at a time
            fault_injection.go_on(out)
        for out, command in zip(outs, commands, strict=True):
            assert command.wait(LIMIT) == 0, (tmp_path / f"{out.name}.log").read_text()
    for out in outs:
        assert_each_of_four_trials_once(out, 8)


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """What Ray makes of a checkout that has been worked in."""
    from ray._private.runtime_env.packaging import _zip_files

    checkout = tmp_path_factory.mktemp("package") / "checkout"
    everywhere = shutil.ignore_patterns(".git", ".venv", "runs", "__pycache__", ".*_cache", "*.egg-info")
    data = str(ROOT / "data")  # but not the package of that name
    shutil.copytree(
        ROOT,
        checkout,
        ignore=lambda folder, names: (
            everywhere(folder, names) | {name for name in names if str(Path(folder) / name) == data}
        ),
    )
    for junk in ("runs/mlflow.db", "data/digits.npz", "weights.pt", "images.tar.gz", "build/lib.py", "dist/x.whl"):
        (checkout / junk).parent.mkdir(exist_ok=True)
        (checkout / junk).write_bytes(b"junk")
    target = checkout.parent / "package.zip"
    _zip_files(str(checkout), [], str(target), include_gitignore=True)
    return target


def test_a_job_sends_kilobytes_and_all_that_it_needs(package, tmp_path):
    assert package.stat().st_size < 2_000_000  # Ray does not compress
    with zipfile.ZipFile(package) as file:
        names = set(file.namelist())
        file.extractall(tmp_path)
    parts = ("harness", "methods", "search_spaces", "reports")
    needed = {str(p.relative_to(ROOT)) for part in parts for p in (ROOT / part).rglob("*.*") if p.suffix != ".png"}
    assert {n for n in needed if "__pycache__" not in n} <= names
    assert {"pyproject.toml", "constraints.txt"} <= names
    outside = ("tests/", "examples/", "runs/", "data/", "build/", "dist/")
    assert not [n for n in names if n.startswith(outside) or "junk" in n]
    assert not [n for n in names if n.endswith((".db", ".npz", ".pt", ".gz", ".png"))]
    code = (
        "import harness, reports.read.artifacts, harness.sweep.ray_runner, harness.sweep.study;"
        "import harness.tracking.tracker, harness.tune, sys;"
        "assert harness.__file__.startswith(sys.argv[1]), harness.__file__;"
        "sys.argv[1:] = ['--space', 'smoke', '--dry-run', '--out', sys.argv[1] + '/out']; sys.exit(harness.tune.main())"
    )
    done = finished([sys.executable, "-c", code, str(tmp_path)], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "2 cells x 2 trials" in done.stdout


@pytest.mark.parametrize(
    "words, said",
    [
        (["--out", "runs"], ["--out 'runs'", "/shared/runs"]),
        (["--out", "/shared/runs", "--data-root", "data"], ["--data-root 'data'", "/shared/data"]),
    ],
)
@pytest.mark.parametrize("inside", [True, False])
def test_a_relative_folder_would_vanish_with_the_job(words, said, inside, monkeypatch):
    if inside:
        monkeypatch.setenv(ray_internals.IN_JOB, "{}")
    address = "auto" if inside else "ray://127.0.0.1:9"
    request = tune.request(tune.arguments(["--space", "smoke", "--address", address, *words]))
    with pytest.raises(UserError) as mistake:
        ray_addresses.check_paths(request)
    assert all(word in str(mistake.value) for word in said) and "\n" not in str(mistake.value)


def test_folders_that_do_not_vanish(monkeypatch):
    ray_addresses.check_paths(Request(out="runs"))  # on this machine
    monkeypatch.setenv(ray_internals.IN_JOB, "{}")
    ray_addresses.check_paths(Request(out="/shared/runs", data_root="/data"))


def test_what_is_outside(monkeypatch):
    assert ray_addresses.is_outside("ray://head:10001")
    assert not ray_addresses.is_outside("auto") and not ray_addresses.is_outside(None)
    monkeypatch.setenv("RAY_ADDRESS", "ray://head:10001")
    assert ray_addresses.is_outside(None) and ray_addresses.is_outside("auto")
    assert not ray_addresses.is_outside("local") and not ray_addresses.is_outside("head:6379")
    monkeypatch.setenv(ray_internals.IN_JOB, "{}")  # the command that was sent, with the words with which it was sent
    assert not ray_addresses.is_outside("ray://head:10001")


@pytest.fixture
def started_here(monkeypatch, tmp_path):
    """A function that writes the address of a cluster as `ray start` does."""
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    file = tmp_path / "ray" / "ray_current_cluster"

    def write(address):
        file.parent.mkdir(exist_ok=True)
        file.write_text(address)
        return file

    return write


@pytest.mark.parametrize(
    "given, variable, address, said",
    [
        (None, None, None, None),
        (None, "", None, None),
        ("local", "h:1", None, None),
        (None, "local", None, None),
        ("local", "auto", None, None),
        ("g:2", "h:1", "g:2", "'g:2'"),
        ("g:2", "auto", "g:2", "'g:2'"),
        ("ray://g:2", "auto", "ray://g:2", "'ray://g:2'"),
        (None, "h:1", "h:1", "'h:1' (RAY_ADDRESS)"),
        ("auto", "h:1", "h:1", "'h:1' (RAY_ADDRESS)"),
        ("auto", None, "10.0.0.1:6379", "'10.0.0.1:6379' (auto: {})"),
        (None, "auto", "10.0.0.1:6379", "'10.0.0.1:6379' (auto: {})"),
    ],
)
def test_which_cluster_is_chosen_and_why(given, variable, address, said, monkeypatch, started_here):
    file = started_here("10.0.0.1:6379\n")
    if variable is not None:
        monkeypatch.setenv("RAY_ADDRESS", variable)
    chosen = ray_addresses.chosen(given)
    assert (chosen and chosen.address) == address and (chosen and str(chosen)) == (said and said.format(file))
    monkeypatch.setenv(ray_internals.IN_JOB, "{}")
    monkeypatch.setenv("RAY_ADDRESS", "j:3")
    assert str(ray_addresses.chosen(given)) == "'j:3' (that of this Ray job)"


def test_auto_joins_what_ray_start_named_here_and_nobody_elses(started_here, tmp_path):
    with pytest.raises(UserError, match=r"^--address auto: `ray start` has started no cluster on this machine .*HOST"):
        sweep_cluster.connect("auto")
    (port,) = free_ports(1)
    file = started_here(f"127.0.0.1:{port}")  # of a head that has died
    with pytest.raises(UserError, match=rf"^no Ray cluster at '127.0.0.1:{port}' \(auto: .*Connection refused$"):
        sweep_cluster.connect("auto")
    (tmp_path / "own").write_text("h:1")
    file.unlink()
    file.symlink_to(tmp_path / "own")
    with pytest.raises(UserError, match=r"belongs to another user; give the address itself: h:1$"):
        sweep_cluster.connect("auto")
    if os.geteuid() == 0:
        file.unlink()
        os.chown(started_here("h:1"), STRANGER, STRANGER)
        with pytest.raises(UserError, match=r"belongs to another user; give the address itself: h:1$"):
            sweep_cluster.connect("auto")


def test_a_cluster_named_by_a_variable_can_be_declined(monkeypatch):
    (port,) = free_ports(1)
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
    said = rf"^no Ray cluster at '127.0.0.1:{port}' \(RAY_ADDRESS\): .*refused; --address local starts one here$"
    with pytest.raises(UserError, match=said):
        sweep_cluster.connect(None)


def test_a_port_that_is_not_rays_is_told(monkeypatch):
    def of_no_cluster(address):
        raise ray.exceptions.RpcError("Timed out while waiting for GCS to become available.")  # after 40 seconds

    monkeypatch.setattr(sweep_cluster, "_check_port", lambda address: None)
    monkeypatch.setattr(ray._raylet, "GcsClient", of_no_cluster)
    with pytest.raises(UserError, match=r"^'h:1' does not answer as a Ray cluster does; is its head node alive"):
        sweep_cluster.connect("h:1")


def test_a_local_cluster_that_lost_its_raylet_ends_the_sweep(monkeypatch):
    sweep_cluster.check()
    monkeypatch.setattr(sweep_cluster.ray_internals, "dead_processes", lambda: ["raylet"])
    with pytest.raises(UserError, match=r"^Ray's raylet on this machine ended unexpectedly; run the same"):
        sweep_cluster.check()


def test_standard_error_is_ours_again_after_a_check_of_rays(capfd):
    with sweep_cluster._silent():
        os.write(2, b"of Ray\n")
    os.write(2, b"ours\n")
    assert capfd.readouterr().err == "ours\n"


LOG = """[2026-11-29 03:58:58,766 I 31505 31505] (raylet) main.cc:1: Starting
[2026-11-29 03:58:59,766 E 31505 31505] (raylet) store.cc:12: No space on /dev/shm
[2026-11-29 03:58:59,866 I 31505 31505] (raylet) main.cc:9: Shutting down
"""


def test_a_local_cluster_that_cannot_start_says_why(monkeypatch):
    def init(_temp_dir, **options):
        logs = Path(_temp_dir) / "session_latest" / "logs"
        logs.mkdir(parents=True)
        (logs / "raylet.out").write_text(LOG)
        raise Exception("The current node timed out during startup. This could happen.\nMore")

    monkeypatch.setattr(sweep_cluster.ray, "init", init)
    said = (
        "Ray cannot start here: Exception: The current node timed out during startup. This could happen. (No space on"
    )
    with pytest.raises(UserError) as mistake:
        sweep_cluster.connect(None)
    sweep_cluster.disconnect()
    assert str(mistake.value) == f"{said} /dev/shm)"


def test_a_connection_that_is_there_is_used_and_left(monkeypatch):
    """A notebook may be connected to a cluster: it is not this module's to leave, nor another's to join."""
    monkeypatch.setattr(sweep_cluster.ray, "is_initialized", lambda: True)
    for name in ("init", "shutdown"):
        monkeypatch.setattr(sweep_cluster.ray, name, lambda *_, name=name, **how: pytest.fail(f"ray.{name}"))
    sweep_cluster.connect("h:6379")
    sweep_cluster.disconnect()


def test_what_was_joined_is_left_once(monkeypatch):
    left = []
    monkeypatch.setattr(sweep_cluster, "_check_port", lambda address: None)
    monkeypatch.setattr(sweep_cluster, "_check_token", lambda cluster: None)
    monkeypatch.setattr(sweep_cluster.ray_internals, "read_authentication", lambda: None)
    monkeypatch.setattr(sweep_cluster.ray_internals, "shorten_reports", lambda: None)
    monkeypatch.setenv(sweep_cluster.ray_internals.REMOTE_CLUSTER, "0")
    monkeypatch.setattr(sweep_cluster.ray, "init", lambda **how: None)
    monkeypatch.setattr(sweep_cluster.ray, "shutdown", lambda: left.append("h:6379"))
    sweep_cluster.connect("h:6379")
    sweep_cluster.disconnect()
    sweep_cluster.disconnect()
    assert left == ["h:6379"]


def test_addresses_that_cannot_be_joined_are_one_line(monkeypatch):
    with pytest.raises(UserError, match=r"^'http://h:8265' is a dashboard.*ray job submit --address http://h:8265"):
        sweep_cluster.connect("http://h:8265")
    with pytest.raises(UserError, match=r"^no Ray cluster at 'ray://127.0.0.1:9'"):
        sweep_cluster.connect("ray://127.0.0.1:9")

    def raises(error):
        def init(**options):
            raise error

        return init

    monkeypatch.setattr(sweep_cluster, "_check_port", lambda address: None)
    monkeypatch.setattr(sweep_cluster, "_check_token", lambda cluster: None)
    monkeypatch.setattr(sweep_cluster.ray, "init", raises(ValueError("Ray Client requires pip package `ray[client]`.")))
    with pytest.raises(UserError, match=r"needs Ray's client; .*\[cluster\]$"):
        sweep_cluster.connect("ray://h:1")
    elsewhere = ConnectionError("Failed to connect to Ray cluster at h:6379")
    monkeypatch.setattr(sweep_cluster.ray, "init", raises(elsewhere))
    with pytest.raises(UserError, match=r"^'h:6379' does not answer as a Ray cluster does; is its head node alive"):
        sweep_cluster.connect("h:6379")
    elsewhere.__cause__ = RuntimeError("No node info found matching attributes: ''")
    with pytest.raises(UserError, match=r"^this machine is not a node of the cluster at 'h:6379'; .*ray://HOST:10001$"):
        sweep_cluster.connect("h:6379")
    large = ray.exceptions.RuntimeEnvSetupError(
        "Failed to upload it: Package size (700.00MiB) exceeds 512.00MiB.\nMore"
    )
    monkeypatch.setattr(sweep_cluster.ray, "init", raises(large))
    with pytest.raises(
        UserError, match=r"^the cluster at 'ray://h:1' does not take this client: .*exceeds 512.00MiB.$"
    ):
        sweep_cluster.connect("ray://h:1")
    versions = (
        "Version mismatch: The cluster was started with:\n    Ray: 2.1\nThis process was started with:\n    Ray: 2.2"
    )
    monkeypatch.setattr(sweep_cluster.ray, "init", raises(RuntimeError(versions)))
    with pytest.raises(UserError, match=r"^no Ray cluster at 'h:1': .*started with: Ray: 2.1 This .*with: Ray: 2.2$"):
        sweep_cluster.connect("h:1")


@pytest.mark.parametrize("failures", [0, 2, 3])
def test_a_head_node_that_fails_to_start_the_clients_server_is_asked_again(failures, monkeypatch):
    trace = "Initialization failure from server:\nTraceback (most recent call last):\n  ...\nRuntimeError: no server\n"
    answers = [ConnectionAbortedError(trace)] * failures + [None] * 3

    def init(**options):
        if (answer := answers.pop(0)) is not None:
            raise answer

    monkeypatch.setattr(sweep_cluster, "_check_port", lambda address: None)
    monkeypatch.setattr(sweep_cluster, "_check_token", lambda cluster: None)
    monkeypatch.setattr(sweep_cluster, "RETRY_SECONDS", 0)
    monkeypatch.setattr(sweep_cluster.ray, "init", init)
    if failures < sweep_cluster.ATTEMPTS:
        sweep_cluster.connect("ray://h:1")
        assert len(answers) == 2
    else:
        with pytest.raises(UserError, match=r"^the cluster at 'ray://h:1' does not take this client: RuntimeErr"):
            sweep_cluster.connect("ray://h:1")
        assert len(answers) == 3


@pytest.mark.parametrize(
    "nodes, asked, answer",
    [
        ([{"CPU": 4, "GPU": 1}], (1, 0), 4),
        ([{"CPU": 4, "GPU": 1}], (1, 0.5), 2),
        ([{"CPU": 8, "GPU": 2}], (1, 0.4), 4),  # two on each GPU; none on halves of both
        ([{"CPU": 2}, {"CPU": 2}, {"CPU": 3}], (2, 0), 3),
        ([{"CPU": 8}, {"CPU": 4, "GPU": 4}], (1, 1), 4),
        ([{"CPU": 2}], (0, 0), 1),
        ([{"CPU": 2}, {"CPU": 2}], (4, 0), "asks for 4 CPU, but the largest node has 2"),
        ([{"CPU": 64}], (1, 0.25), "asks for 0.25 GPU, but the largest node has 0"),
        ([{"CPU": 8}, {"CPU": 1, "GPU": 1}], (4, 1), "asks for 4 CPU and 1 GPU, but no node has both"),
    ],
)
def test_how_many_trials_the_nodes_take(nodes, asked, answer, monkeypatch):
    dead = {"Alive": False, "Resources": {"CPU": 100, "GPU": 100}}
    monkeypatch.setattr(sweep_cluster.ray, "nodes", lambda: [dead, *({"Alive": True, "Resources": n} for n in nodes)])
    if isinstance(answer, int):
        assert trial_slots.slots(*asked, trial_slots.cluster_resources()) == answer
    else:
        with pytest.raises(UserError, match=answer):
            trial_slots.slots(*asked, trial_slots.cluster_resources())


def strict(properties, *required):
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def listed(item):
    return {"type": "array", "items": item, "minItems": 1}


TEXT, WHOLE, YES_OR_NO = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "boolean"}
WORDS = {"type": "object", "additionalProperties": TEXT}
AMOUNTS = {
    "type": "object",
    "additionalProperties": {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?(m|[KMGT]i?)?$"},
}
CONTAINER = strict(
    {
        "name": TEXT,
        "image": TEXT,
        "env": listed(strict({"name": TEXT, "value": TEXT}, "name", "value")),
        "resources": strict({"requests": AMOUNTS, "limits": AMOUNTS}, "requests", "limits"),
        "volumeMounts": listed(strict({"name": TEXT, "mountPath": TEXT}, "name", "mountPath")),
    },
    "name",
    "image",
    "resources",
)
CLAIM = strict({"claimName": TEXT, "readOnly": YES_OR_NO}, "claimName")
POD = strict(
    {
        "containers": listed(CONTAINER),
        "volumes": listed(strict({"name": TEXT, "persistentVolumeClaim": CLAIM}, "name", "persistentVolumeClaim")),
        "tolerations": listed(
            strict(
                {
                    "key": TEXT,
                    "operator": {"enum": ["Exists", "Equal"]},
                    "value": TEXT,
                    "effect": {"enum": ["NoSchedule", "PreferNoSchedule", "NoExecute"]},
                }
            )
        ),
        "terminationGracePeriodSeconds": WHOLE,
    },
    "containers",
)
TEMPLATE = strict({"spec": POD}, "spec")
RAY_JOB = strict(  # of KubeRay's custom resource ray.io/v1, what the example uses
    {
        "apiVersion": {"const": "ray.io/v1"},
        "kind": {"const": "RayJob"},
        "metadata": strict({"name": TEXT, "namespace": TEXT, "labels": WORDS, "annotations": WORDS}, "name"),
        "spec": strict(
            {
                "entrypoint": TEXT,
                "runtimeEnvYAML": TEXT,
                "backoffLimit": WHOLE,
                "activeDeadlineSeconds": WHOLE,
                "shutdownAfterJobFinishes": YES_OR_NO,
                "ttlSecondsAfterFinished": WHOLE,
                "submissionMode": {"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode"]},
                "suspend": YES_OR_NO,
                "rayClusterSpec": strict(
                    {
                        "rayVersion": TEXT,
                        "authOptions": strict({"mode": {"enum": ["token", "disabled"]}}, "mode"),
                        "enableInTreeAutoscaling": YES_OR_NO,
                        "autoscalerOptions": strict({"idleTimeoutSeconds": WHOLE}),
                        "headGroupSpec": strict({"rayStartParams": WORDS, "template": TEMPLATE}, "template"),
                        "workerGroupSpecs": listed(
                            strict(
                                {
                                    "groupName": TEXT,
                                    "replicas": WHOLE,
                                    "minReplicas": WHOLE,
                                    "maxReplicas": WHOLE,
                                    "rayStartParams": WORDS,
                                    "template": TEMPLATE,
                                },
                                "groupName",
                                "minReplicas",
                                "maxReplicas",
                                "template",
                            )
                        ),
                    },
                    "headGroupSpec",
                ),
            },
            "entrypoint",
            "rayClusterSpec",
        ),
    },
    "apiVersion",
    "kind",
    "metadata",
    "spec",
)
FREE = ("rayStartParams", "requests", "limits", "labels", "annotations")  # whose keys are the user's


def typos(value):
    """Every copy of a manifest with a typo in one name of a field."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield {(f"{k}x" if k == key else k): v for k, v in value.items()}
            if key not in FREE:
                yield from ({**value, key: wrong} for wrong in typos(inner))
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from ([*value[:i], wrong, *value[i + 1 :]] for wrong in typos(inner))


def test_the_ray_job_is_one_and_no_typo_passes():
    manifest = yaml.safe_load((EXAMPLES / "rayjob.yaml").read_text())
    jsonschema.validate(manifest, RAY_JOB)
    wrong = list(typos(manifest))
    assert len(wrong) > 50
    for other in wrong:
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(other, RAY_JOB)


def test_the_ray_job_hangs_together():
    spec = yaml.safe_load((EXAMPLES / "rayjob.yaml").read_text())["spec"]
    cluster = spec["rayClusterSpec"]
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    assert f"ray=={cluster['rayVersion']}" in pins
    assert cluster["authOptions"] == {"mode": "token"}
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    pods = [group["template"]["spec"] for group in groups]
    assert len({c["image"] for pod in pods for c in pod["containers"]}) == 1
    for pod in pods:
        volumes = {v["name"] for v in pod["volumes"]}
        assert {m["name"] for c in pod["containers"] for m in c["volumeMounts"]} == volumes
        assert [m["mountPath"] for c in pod["containers"] for m in c["volumeMounts"]] == ["/shared"]
    for group in cluster["workerGroupSpecs"]:
        assert 1 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


def test_the_cluster_is_as_ray_up_reads_it():
    """By the schema that Ray ships, with Ray's own defaults filled in, as `ray up` does; and a typo is refused."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((EXAMPLES / "cluster.yaml").read_text())
    validate_config(prepare_config(copy.deepcopy(config)))
    types = config["available_node_types"]
    for wrong in (
        {**config, "setup_comands": []},
        {**config, "available_node_types": {**types, "gpu-worker": {**types["gpu-worker"], "min_worker": 1}}},
    ):
        with pytest.raises(jsonschema.ValidationError):
            validate_config(prepare_config(copy.deepcopy(wrong)))
    workers = [kind for name, kind in types.items() if name != config["head_node_type"]]
    assert all(kind["node_config"]["InstanceMarketOptions"]["MarketType"] == "spot" for kind in workers)
    assert "InstanceMarketOptions" not in types[config["head_node_type"]]["node_config"]
    started = config["head_start_ray_commands"][-1], config["worker_start_ray_commands"][-1]
    assert all("RAY_AUTH_MODE=token" in line for line in started)
    assert "MLFLOW_TRACKING_URI=" in started[0]


def test_both_examples_give_the_same_command_and_it_is_one():
    job = yaml.safe_load((EXAMPLES / "rayjob.yaml").read_text())["spec"]["entrypoint"]
    comment = " ".join(
        line.strip("# \\") for line in (EXAMPLES / "cluster.yaml").read_text().splitlines() if line.startswith("#")
    )
    assert job == COMMAND and COMMAND in comment
    request = tune.request(tune.arguments(COMMAND.split()[3:]))
    assert plan.plan(request).named.name == "sat" and request.space in cli.spaces()
