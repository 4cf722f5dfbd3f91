"""What other projects do not promise is as it is used here; else the package, its version and the part are named."""

import contextlib
import importlib
import inspect
import json
import re
import shutil
import subprocess
import sys
from concurrent import futures
from importlib.metadata import distribution, version
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import optuna
import pytest
import torch
from mlflow import MlflowClient, environment_variables
from mlflow.entities import Metric, Param
from mlflow.store.tracking.dbmodels.models import SqlExperiment
from optuna.trial import TrialState
from PIL import Image
from sweeps import until
from torch import nn

from harness.attacks import autoattack
from harness.bench.report import BulkClient
from harness.explain import captum_maps
from harness.models import nets, torchvision_import
from harness.storage import checkpoint_kinds
from harness.sweep import optuna_journal, ray_internals, ray_runner
from harness.tracking import mlflow_client


@contextlib.contextmanager
def using(package, part):
    """Within, a part of a package is used as we do; a failure names both, and the version."""
    try:
        yield
    except Exception as error:
        table = "see the table in docs/contributing.md for the file that uses it"
        pytest.fail(f"{package} {version(package)} has changed {part}; {table} ({error!r})")


def sources(package, *folders):
    """The text of all modules in some folders of a package."""
    root = Path(distribution(package).locate_file(package))
    return "\n".join(file.read_text() for folder in folders for file in sorted((root / folder).rglob("*.py")))


def test_a_part_that_moved_is_named():
    said = rf"^optuna {re.escape(optuna.__version__)} has changed the id of a trial; .*contributing\.md.*_trial_id"
    with pytest.raises(pytest.fail.Exception, match=said), using("optuna", "the id of a trial"):
        print(object()._trial_id)


# Ray


@pytest.fixture(scope="module")
def ray_sources():
    return sources("ray", "_private", "_common", "air", "train", "tune")


NAMES = (*ray_internals.ENVIRONMENT, ray_internals.IN_JOB, *ray_internals.OF_PROCESS, ray_internals.DECLARED)
NAMES += (ray_internals.AUTH_MODE, ray_internals.AUTH_TOKEN, ray_internals.AUTH_TOKEN_PATH)


@pytest.mark.parametrize("name", NAMES)
def test_ray_has_the_environment_variable(ray_sources, name):
    with using("ray", f"the environment variable {name}"):
        assert f'"{name}"' in ray_sources


def test_ray_has_the_resource_of_the_head_node(ray_sources):
    with using("ray", "the resource of the head node"):
        from ray._common.constants import HEAD_NODE_RESOURCE_NAME

        assert HEAD_NODE_RESOURCE_NAME == ray_internals.HEAD_NODE


def test_ray_reads_its_token_again(tmp_path, monkeypatch):
    with using("ray", "how a process reads the token of a cluster"):
        from ray._raylet import AuthenticationMode, AuthenticationTokenLoader, get_authentication_mode

        monkeypatch.delenv(ray_internals.AUTH_TOKEN, raising=False)
        monkeypatch.setenv("HOME", str(tmp_path))
        for mode in ("token", "disabled"):
            monkeypatch.setenv(ray_internals.AUTH_MODE, mode)
            monkeypatch.setenv(ray_internals.AUTH_TOKEN_PATH, str(tmp_path / mode))
            (tmp_path / mode).write_text(mode)
            ray_internals.read_authentication()
            assert get_authentication_mode() == getattr(AuthenticationMode, mode.upper())
            assert AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True)
        monkeypatch.undo()
        ray_internals.read_authentication()


def test_ray_names_a_session_and_its_sockets(ray_sources):
    with using("ray", "the name of a session, or of its sockets"):
        folder, sockets, socket = ray_internals.LONGEST_SOCKET.split("/")
        assert 'f"session_{date_str}_{os.getpid()}"' in ray_sources
        assert '"%Y-%m-%d_%H-%M-%S_%f"' in ray_sources
        assert re.fullmatch(r"session_\d{4}(-\d\d){2}_\d\d(-\d\d){2}_\d{6}_\d{7}", folder)
        assert f'(self._session_dir, "{sockets}")' in ray_sources and f'default_prefix="{socket}"' in ray_sources


def test_the_processes_of_a_local_cluster_are_killed_with_those_that_they_started(monkeypatch):
    with using("ray", "how a node kills its processes"):
        from ray._private import worker
        from ray._private.node import Node

        assert "allow_graceful" in inspect.signature(Node.kill_all_processes).parameters
        assert "self.all_processes" in inspect.getsource(Node) and hasattr(worker, "_global_node")
        code = (
            "import subprocess as s, sys; open('/proc/self/comm', 'wb').write(b'no UTF-8 \\xc3');"
            "p = s.Popen(['sleep', '900']); print(p.pid, flush=True); p.wait()"
        )
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        grandchild = int(process.stdout.readline())
        killed = []

        def kill_all_processes(check_alive, allow_graceful):
            killed.append(allow_graceful)
            process.kill()

        node = SimpleNamespace(
            all_processes={"raylet": [SimpleNamespace(process=process)]}, kill_all_processes=kill_all_processes
        )
        monkeypatch.setattr(worker, "_global_node", node)
        ray_internals.end_without_grace()
        node.kill_all_processes(check_alive=False, allow_graceful=True)
        process.communicate()
        assert killed == [False]
        with contextlib.suppress(OSError):  # gone, or nobody has asked yet how it ended
            until(lambda: b"Z" in Path(f"/proc/{grandchild}/stat").read_bytes().rpartition(b")")[2].split()[:1])


def test_a_local_cluster_tells_which_of_its_processes_have_ended(monkeypatch):
    with using("ray", "the processes of a node"):
        from ray._private import ray_constants, worker
        from ray._private.node import Node

        node = object.__new__(Node)
        node.head, node.all_processes = True, {}
        monkeypatch.setattr(worker, "_global_node", node)
        kinds = (ray_constants.PROCESS_TYPE_GCS_SERVER, ray_constants.PROCESS_TYPE_RAYLET, "monitor")
        for kind, status in zip(kinds, (None, -9, 1), strict=True):
            node.all_processes[kind] = [SimpleNamespace(process=SimpleNamespace(poll=lambda status=status: status))]
        assert ray_internals.dead_processes() == ["raylet"]
        node.head = False  # of another machine
        assert ray_internals.dead_processes() == []
        monkeypatch.setattr(worker, "_global_node", None)
        assert ray_internals.dead_processes() == []


def test_what_ray_reports_of_a_dead_process_is_a_line(monkeypatch):
    with using("ray", "how the driver prints what processes report"):
        from ray._private import worker

        assert "print_to_stdstream(" in inspect.getsource(worker.listen_error_messages)
        assert list(inspect.signature(worker.print_to_stdstream).parameters) == ["data", "ignore_prefix"]
        printed = []
        monkeypatch.setattr(worker, "print_to_stdstream", lambda data, ignore_prefix: printed.append(data))
        ray_internals.shorten_reports()
        dump = "Raylet is terminated. Possible reasons include: (1) a lot\n    [state-dump] x\n    [state-dump] y"
        worker.print_to_stdstream({"lines": [dump, "a line"], "pid": "raylet", "is_err": False}, ignore_prefix=False)
        assert printed == [{"lines": ["Raylet is terminated.", "a line"], "pid": "raylet", "is_err": False}]


def test_ray_tune_sends_no_credentials_to_workers(monkeypatch):
    with using("ray", "the variables that Ray Tune sends to workers"):
        from ray.tune.execution import class_cache

        def sent():
            actor = class_cache._ActorClassCache().get(type("Trainable", (), {}))
            return actor._default_options["runtime_env"]["env_vars"]

        monkeypatch.setattr(class_cache, "ENV_VARS_TO_PROPAGATE", class_cache.ENV_VARS_TO_PROPAGATE)
        importlib.reload(class_cache)  # a sweep of this process may have taken some out
        for name in class_cache.ENV_VARS_TO_PROPAGATE:
            monkeypatch.setenv(name, "1")
        assert "AWS_SECRET_ACCESS_KEY" in sent()
        ray_internals.pass_on_no_credentials()
        assert "RAY_CHDIR_TO_TRIAL_DIR" in sent()
        assert not [name for name in sent() if not name.startswith("RAY_") and name != "PL_DISABLE_FORK"]


@pytest.mark.parametrize("text", [ray_internals.NO_CLIENT, ray_internals.NO_NODE])
def test_ray_says_why_it_does_not_connect(ray_sources, text):
    with using("ray", f"the message {text!r} of ray.init"):
        assert text in ray_sources


def test_ray_says_that_an_environment_cannot_be_made():
    with using("ray", "the message of a cluster that does not take a package"):
        from ray.exceptions import RuntimeEnvSetupError

        assert str(RuntimeEnvSetupError("the cause")) == f"{ray_internals.RUNTIME_ENV}the cause"


def test_ray_writes_down_the_cluster_of_this_machine(tmp_path, monkeypatch):
    with using("ray", "the file of the cluster that `ray start` joined"):
        from ray._private.utils import write_ray_address

        monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
        (tmp_path / "ray").mkdir()
        write_ray_address("10.0.0.1:6379")
        assert ray_internals.started_here().read_text() == "10.0.0.1:6379"


@pytest.mark.parametrize("answer, refused", [("UNAUTHENTICATED", True), ("UNAVAILABLE", False), ("OK", False)])
def test_the_server_of_rays_clients_says_that_it_wants_a_token(answer, refused):
    grpc = pytest.importorskip("grpc")
    with using("ray", "the first question that its client asks"):
        from ray.core.generated import ray_client_pb2, ray_client_pb2_grpc

        class Server(ray_client_pb2_grpc.RayletDriverServicer):
            def ClusterInfo(self, request, context):
                assert request.type == ray_client_pb2.ClusterInfoType.PING
                if answer != "OK":
                    context.abort(getattr(grpc.StatusCode, answer), "told")
                return ray_client_pb2.ClusterInfoResponse(json="{}")

        server = grpc.server(futures.ThreadPoolExecutor(1))
        ray_client_pb2_grpc.add_RayletDriverServicer_to_server(Server(), server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        assert ray_internals.is_client_refused(f"127.0.0.1:{port}") == refused
        server.stop(None)


def test_ray_says_that_a_node_has_died():
    with using("ray", f"the message {ray_internals.NODE_DIED!r} of an actor's error"):
        server = Path(distribution("ray").locate_file("ray/core/src/ray/gcs/gcs_server"))
        assert ray_internals.NODE_DIED.encode() in server.read_bytes()


def test_a_trial_of_ray_counts_its_failures_and_writes_each_to_its_file(tmp_path):
    with using("ray", "how a trial counts and writes down its failures"):
        from ray.tune.experiment import Trial

        storage = SimpleNamespace(trial_driver_staging_path=str(tmp_path), trial_dir_name="")
        trial = Trial("none", stub=True, storage=storage)
        assert ray_internals.failure_lines(trial) == []
        for number in range(1, 5):
            if number == 2:
                ray_internals.allow_failures(trial, 2)
            trial.handle_error(RuntimeError(f"first line {number}\nsecond line"))
            assert ray_internals.failure_lines(trial) == [f"first line {number}", "second line"]
            assert trial.num_failures == number and trial.should_recover() == (number in (2, 3))


def test_ray_starts_the_next_worker_of_a_trial_with_the_config_as_it_is_then(tmp_path):
    with using("ray", "what a worker is started with"):
        from ray.tune.execution.tune_controller import _get_trainable_kwargs
        from ray.tune.experiment import Trial

        paths = ("trial_driver_staging_path", "experiment_driver_staging_path", "trial_dir_name", "experiment_dir_name")
        storage = SimpleNamespace(**dict.fromkeys(paths, str(tmp_path)))
        trial = Trial("none", stub=True, config={"used": 0.0}, storage=storage)
        trial.config["used"] += 5.0
        assert _get_trainable_kwargs(trial)["config"]["used"] == 5.0


def test_a_run_of_ray_keeps_nothing_of_trials_that_have_ended(tmp_path):
    with using("ray", "where its controller keeps the trials of a run"):
        from ray.tune.execution.tune_controller import TuneController
        from ray.tune.experiment import Trial

        class Stored(SimpleNamespace):
            experiment_driver_staging_path = storage_fs_path = experiment_fs_path = str(tmp_path)

        controller = TuneController(search_alg=object(), resource_manager_factory=object, storage=Stored())
        trials = [
            Trial("none", stub=True, trial_id=name) for name in ("complete", "failed", "going", "stopping", "ending")
        ]
        for trial in trials:
            controller.add_trial(trial)
            controller._mark_trial_to_checkpoint(trial)
        complete, failed, going, stopping, ending = trials
        for trial in (complete, stopping, ending):
            controller._set_trial_status(trial, Trial.TERMINATED)
        controller._set_trial_status(failed, Trial.ERROR)
        controller._trial_to_actor[stopping] = "its actor"
        controller._pending_trials_list.clear()  # as when a trial gets its actor
        ray_internals.forget_ended(controller, but=ending)
        assert controller.get_trials() == [going, stopping, ending]
        kept = {name: value for name, value in vars(controller).items() if isinstance(value, list | set | dict)}
        assert not [name for name, value in kept.items() for trial in (complete, failed) if trial in value]


def test_ray_adds_no_callback_of_its_own_that_keeps_trials():
    with using("ray", "the callbacks that it adds to those of a run"):
        from ray.tune.utils.callback import _create_default_callbacks

        given = [ray_runner._NoProgress()]
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
            assert _create_default_callbacks(list(given), air_verbosity=None) == given
            assert len(_create_default_callbacks([], air_verbosity=None)) == 1
        trial = object()
        for name in ("on_trial_result", "on_trial_error", "on_trial_complete"):
            getattr(given[0], name)(0, [trial], trial, **({"result": {}} if name == "on_trial_result" else {}))
        assert not any(given[0].__dict__[kept] for kept in ("_last_print", "_completed_trials", "_last_result_str"))


# Optuna


def test_an_interrupted_trial_of_optuna_goes_on(tmp_path):
    with using("optuna", "the id of a stored trial, by which `Trial` opens it again"):
        study = optuna.create_study(study_name="a", storage=optuna_journal.open_journal(tmp_path / "journal"))
        study.ask({"x": optuna.distributions.FloatDistribution(0, 1)}).report(0.25, 1)
        study = optuna.load_study(study_name="a", storage=optuna_journal.open_journal(tmp_path / "journal"))
        (before,) = study.get_trials(states=(TrialState.RUNNING,))
        trial = optuna_journal.going_on(study, before)
        assert (trial.number, trial.params) == (before.number, before.params)
        trial.report(0.5, 2)
        trial.set_user_attr("key", "k")
        study.tell(trial, 0.75)
        (after,) = study.trials
        assert (after.state, after.value, after.user_attrs) == (TrialState.COMPLETE, 0.75, {"key": "k"})
        assert after.intermediate_values == {1: 0.25, 2: 0.5} and after.params == before.params


def test_a_journal_of_optuna_is_a_line_of_json_per_entry(tmp_path):
    """So a line that a killed driver left half written can be dropped."""
    with using("optuna", "the format of its journal"):
        file = tmp_path / "journal"
        optuna.create_study(study_name="a", storage=optuna_journal.open_journal(file)).ask().report(0.5, 1)
        text = file.read_text()
        assert text.endswith("\n") and all(isinstance(json.loads(line), dict) for line in text.splitlines())
        file.write_text(text + text.splitlines()[-1][:20])
        study = optuna.load_study(study_name="a", storage=optuna_journal.open_journal(file))
        assert [t.intermediate_values for t in study.trials] == [{1: 0.5}] and file.read_text() == text


# MLflow


@pytest.mark.parametrize("name", [*mlflow_client.ENVIRONMENT, *mlflow_client.WRITER_ENVIRONMENT])
def test_mlflow_has_the_environment_variable(monkeypatch, name):
    value = (mlflow_client.ENVIRONMENT | mlflow_client.WRITER_ENVIRONMENT)[name]
    with using("mlflow", f"the environment variable {name}"):
        monkeypatch.setenv(name, value)
        assert str(getattr(environment_variables, name).get()).lower() == value.lower()


def test_a_server_of_mlflow_has_an_address_that_says_it_is_there():
    with using("mlflow", "the address /health of its server"):
        assert '"/health"' in sources("mlflow", "server")


def test_a_database_of_mlflow_has_a_table_of_experiments():
    with using("mlflow", "the name of its table of experiments"):
        assert SqlExperiment.__tablename__ == "experiments"


def test_a_run_inserted_into_a_database_of_mlflow_is_read_as_one_that_was_logged(tmp_path, empty_store):
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    with using("mlflow", "the tables of its runs"):
        client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
        experiment = client.create_experiment("e")
        bulk = BulkClient(tmp_path, experiment)
        run = bulk.create_run(experiment, 5, "name", {"tag": "t"}).info.run_id
        bulk.log_batch(run, metrics=[Metric("m", 0.5, 7, 1), Metric("m", 0.25, 8, 2)], params=[Param("p", "q")])
        bulk.set_terminated(run, "FINISHED", 9)
        bulk.insert(tmp_path / "mlflow.db")
        (read,) = client.search_runs([experiment], "tags.tag = 't' and metrics.m = 0.25")
        assert (read.info.run_id, read.info.run_name, read.info.status) == (run, "name", "FINISHED")
        assert (read.data.params, read.data.metrics) == ({"p": "q"}, {"m": 0.25})
        assert [m.value for m in client.get_metric_history(run, "m")] == [0.5, 0.25]


# torchvision


def test_torchvision_needs_the_operators_that_are_declared_for_it():
    with using("torchvision", "the operators that its import needs"):
        source = inspect.getsource(torchvision_import.torchvision._meta_registrations)
        assert set(re.findall(r"register_fake\(\"torchvision::(\w+)\"\)", source)) == set(torchvision_import._OPERATORS)
        for name, schema in torchvision_import._OPERATORS.items():
            declared = torch._C.parse_schema(f"torchvision::{schema}")
            assert getattr(torch.ops.torchvision, name).default._schema == declared


def test_torchvision_lists_the_files_of_gtsrb(tmp_path):
    folder = tmp_path / "gtsrb/GTSRB/Training/00000"
    folder.mkdir(parents=True)
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(folder / "a.ppm")
    with using("torchvision", "its list of GTSRB's files"):
        images = torchvision_import.torchvision.datasets.GTSRB(tmp_path, split="train")
        listed = [(Path(path), label) for path, label in torchvision_import.listed_files(images)]
        assert listed == [(folder / "a.ppm", 0)]


# torch


def test_torch_names_the_first_object_that_it_does_not_unpickle(tmp_path):
    torch.save({"weights": torch.ones(1), "net": nn.Identity(), "path": tmp_path}, tmp_path / "w.pt")
    with using("torch", "what its refusal of a pickled object names"):
        with pytest.raises(Exception) as refused:
            torch.load(tmp_path / "w.pt", weights_only=True)
        said = checkpoint_kinds.describe(tmp_path / "w.pt", refused.value)
        assert said.startswith("holds a pickled module of class torch.nn.modules.linear.Identity")


# pyautoattack


def test_pyautoattack_has_the_attacks_and_settings_that_are_changed():
    torch.manual_seed(0)
    net, x, y = nn.Sequential(nn.Flatten(), nn.Linear(36, 3)), torch.rand(4, 1, 6, 6), torch.zeros(4, dtype=torch.long)
    with using("pyautoattack", "its attacks or their settings"):
        package = autoattack._package()
        options = {"eps": 0.1, "norm": "Linf", "seed": 0, "device": "cpu", "version": "standard"}
        ensemble = package.AutoAttack(net.eval(), **options)
        targeted = ensemble.apgd_targeted
        assert ensemble.fab.targeted is not None
        assert targeted.n_target_classes == ensemble.fab.n_target_classes == autoattack.TARGETS
        assert targeted.logger is ensemble.apgd.logger
        assert all(callable(a.perturb) for a in (ensemble.apgd, targeted, ensemble.fab, ensemble.square))
        targets = set()

        def loss(logits, y):
            targets.update(targeted.y_target.tolist())
            return logits.gather(1, targeted.y_target[:, None]).squeeze(1) - logits.gather(1, y[:, None]).squeeze(1)

        targeted.dlr_loss_targeted, targeted.n_target_classes = loss, 2
        y = net(x).argmax(1)
        targeted.perturb(x, y)
        assert targets and targets <= {0, 1, 2}


# captum


def test_captum_warns_of_hooks_and_only_of_them():
    net, x = nets.build("small", 1, 3).eval(), torch.rand(2, 1, 8, 8)
    y = torch.tensor([0, 1])
    with using("captum", "its warnings about hooks, or the signatures of its attributions"):
        for name in ("Saliency", "InputXGradient", "DeepLift", "GuidedBackprop"):
            assert captum_maps.find(f"captum.{name}").detached(net, x, y).shape == x.shape  # warnings are errors here
        with pytest.warns(UserWarning, match=r"^Setting (forward, )?backward hooks"):
            captum_maps._captum().GuidedBackprop(net).attribute(x.requires_grad_(), target=y)
