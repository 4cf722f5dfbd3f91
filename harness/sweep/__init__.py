"""Hyperparameter sweep: Optuna proposes and prunes trials, Ray Tune runs them, winners are repeated over seeds.

Imports: trials and all below it, cli. Only cluster, trial_slots, ray_runner, worker, retries and remote_command import
Ray.
"""

import os

from harness.sweep.ray_internals import ENVIRONMENT

for _name, _value in ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)
