"""Hyperparameter sweep: Optuna proposes and prunes trials, Ray Tune runs them, winners are repeated over seeds.

Imports: trials and all below it, cli. Only cluster, trial_slots, ray_runner, worker, retries and remote_command import
Ray.
"""

import os

# Ray reads these on import: no telemetry, no console output, no snapshots (the Optuna journal is the state).
for _name, _value in {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # a local cluster listens on loopback only
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}.items():
    os.environ.setdefault(_name, _value)
