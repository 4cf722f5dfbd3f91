"""Hyperparameter search and evaluation of robust and explainable image classifiers."""

import os

# Torch's OpenMP threads busy-wait by default, which slows runs on shared cores several times.
# OpenMP reads this once, on loading, so it must be set before the first `import torch`.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
