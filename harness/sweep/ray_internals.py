"""What is used of Ray that Ray does not promise: environment variables, a resource, messages, attributes of a trial.

`tests/project/test_foreign_parts.py` finds what another version of Ray changed. Ray is imported only by what uses it.
"""

import contextlib
import functools
import inspect
import os
import re
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.tune.execution.tune_controller import TuneController
    from ray.tune.experiment import Trial

# Read by Ray on import: no telemetry, no console output, no snapshots (the Optuna journal is the state).
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # a local cluster listens on loopback only
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",
    "TUNE_FUNCTION_THREAD_TIMEOUT_S": "600",  # a stopped trial ends, with its last push, before its worker goes on
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}
REMOTE_CLUSTER = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"  # "1": nodes listen on their own address
IN_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # set by Ray for the command of a Ray job
OF_PROCESS = ("RAY_JOB_ID", "RAY_RAYLET_PID")  # set by Ray for one process, not for those that it starts
AUTH_MODE, AUTH_TOKEN, AUTH_TOKEN_PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
LONGEST_SOCKET = "session_2000-01-01_00-00-00_000000_4194304/sockets/plasma_store"  # below the folder of all sessions
DECLARED = "RAY_OVERRIDE_RESOURCES"  # read by Ray when it starts a node
HEAD_NODE = "node:__internal_head__"  # resource of the head node only
NODE_DIED = "its node has died"  # in the error of an actor
RUNTIME_ENV = "Failed to set up runtime environment.\n"  # first line of an error's message, before the cause
NO_CLIENT, NO_NODE = "ray[client]", "No node info found"  # in messages of `ray.init`


def read_authentication() -> None:
    """Let this process read again what the environment says of the token of a cluster."""
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]  # compiled, without types

    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def has_token() -> bool:
    """Whether the environment or the home folder gives this process a token, whether or not it is used."""
    from ray._raylet import AuthenticationTokenLoader  # type: ignore[attr-defined]  # as above

    return bool(AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True))


def is_refused(address: str) -> bool:
    """Whether the cluster at host:port refuses this process for its token. Raises `TimeoutError` if none answers.

    `ray.init` tells neither from the other, and takes 40 seconds for the first.
    """
    from ray._raylet import GcsClient  # type: ignore[attr-defined]  # as above
    from ray.exceptions import AuthenticationError, RpcError

    try:
        GcsClient(address=address)
    except AuthenticationError:
        return True
    except RpcError as error:
        raise TimeoutError(str(error)) from None
    return False


def is_client_refused(address: str) -> bool:
    """Whether the server of Ray's clients at host:port refuses this process for its token; False if it is not told."""
    try:
        import grpc  # type: ignore[import-untyped]  # it has none
        from ray._private.grpc_utils import init_grpc_channel
        from ray.core.generated import ray_client_pb2, ray_client_pb2_grpc
    except ImportError:  # Ray's client is not installed
        return False
    messages: Any = ray_client_pb2  # made when it is imported
    ping = messages.ClusterInfoRequest(type=messages.ClusterInfoType.PING)
    with init_grpc_channel(address, asynchronous=False) as channel:
        try:
            ray_client_pb2_grpc.RayletDriverStub(channel).ClusterInfo(ping, timeout=30)
        except grpc.RpcError as error:
            return error.code() == grpc.StatusCode.UNAUTHENTICATED
    return False


def started_here() -> Path:
    """The file with the address of the cluster that `ray start` made this machine a node of."""
    from ray._common.utils import get_ray_address_file

    return Path(get_ray_address_file(None))


def logged_error(sessions: Path) -> str:
    """The last error that the processes of a cluster logged which could not start; "" if there is none."""
    for name in ("gcs_server.err", "gcs_server.out", "raylet.err", "raylet.out"):
        with contextlib.suppress(OSError):
            text = (sessions / "session_latest" / "logs" / name).read_text(encoding="utf-8", errors="replace")
            if found := re.findall(r"^\[\S+ \S+ [EFC] .*?\] (?:\(\w+\) )?[\w./]+:\d+: +(.+)", text, re.M):
                return str(found[-1])
    return ""


def end_without_grace() -> None:
    """Let the processes of the local cluster, and those that they started, be killed when it ends.

    They do not receive SIGTERM, which Ray tries first, a second for each; and without it some would linger.
    """
    from ray._private import worker

    node: Any = worker._global_node
    kill = node.kill_all_processes

    def kill_all(**how: Any) -> None:
        started = _children({info.process.pid for infos in node.all_processes.values() for info in infos})
        kill(**{**how, "allow_graceful": False})
        for process in started:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)

    node.kill_all_processes = kill_all


def dead_processes() -> list[str]:
    """Which of the two processes that a local cluster cannot do without have ended."""
    from ray._private import worker

    node: Any = worker._global_node
    dead = [kind for kind, _ in node.dead_processes()] if node and node.is_head() else []
    return [kind for kind in dead if kind in ("gcs_server", "raylet")]


def shorten_reports() -> None:
    """Print the first line only of what Ray reports of its processes: a dump of the state of a dead one follows."""
    from ray._private import worker

    whole: Any = inspect.unwrap(worker.print_to_stdstream)  # of an earlier cluster of this process

    @functools.wraps(whole)
    def first_lines(data: dict, *given: Any, **how: Any) -> None:
        lines = [line.splitlines()[0] for line in data["lines"] if line.strip()]
        whole({**data, "lines": [line.partition(" Possible reasons")[0] for line in lines]}, *given, **how)

    worker.print_to_stdstream = first_lines


def _children(parents: set[int]) -> list[int]:
    """Ids of the processes that these have started; none where the system does not tell (there is no /proc)."""
    found = []
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has just ended
            if int(file.read_bytes().rpartition(b")")[2].split()[1]) in parents:  # a name may be any bytes
                found.append(int(file.parent.name))
    return [process for process in found if process not in parents]


def pass_on_no_credentials() -> None:
    """Let Ray Tune send its own settings to workers, and no credentials of AWS.

    They would be in its logs and in the command line of a process. Workers of this machine inherit the environment.
    """
    from ray.tune.execution import class_cache

    class_cache.ENV_VARS_TO_PROPAGATE = {n for n in class_cache.ENV_VARS_TO_PROPAGATE if n.startswith("RAY_")}


def allow_failures(trial: "Trial", more: int) -> None:
    """Let a trial fail so many more times before Ray gives it up."""
    trial.max_failures = trial.num_failures + more


def forget_ended(controller: "TuneController", but: "Trial") -> None:
    """Drop the trials that have ended, and no actor belongs to, from all that Tune keeps of the trials of a run.

    Tune goes through its list of them at every step, and keeps some 45 KiB for each until the run ends. but: the trial
    that is ending, which Tune still needs.
    """
    ended = {t for t in controller._trials if t.is_finished() and t not in controller._trial_to_actor and t is not but}
    controller._trials[:] = [trial for trial in controller._trials if trial not in ended]
    for kept in ("_live_trials", "_stopped_trials", "_failed_trials", "_trials_to_cache"):
        getattr(controller, kept).difference_update(ended)


def failure_lines(trial: "Trial") -> list[str]:
    """The lines that Ray wrote about the trial's last failure; none if it wrote nothing."""
    try:
        return (
            Path(trial.error_file)
            .read_text(encoding="utf-8", errors="replace")
            .rpartition("Failure # ")[2]
            .strip()
            .splitlines()[1:]
        )
    except (OSError, TypeError):
        return []
