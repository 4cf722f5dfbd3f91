"""What is used of Ray that Ray does not promise: environment variables, a resource, messages, attributes of a trial.

`tests/project/test_foreign_parts.py` finds what another version of Ray changed. Ray is imported only by what uses it.
"""

from pathlib import Path
from typing import TYPE_CHECKING

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
NO_CLIENT, NO_NODE = "ray[client]", "No node info found"  # in messages of `ray.init`


def read_authentication() -> None:
    """Let this process read again what the environment says of the token of a cluster."""
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]  # compiled, without types

    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


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
