"""Hyperparameter search and honest measurement for robust and explainable image classifiers."""

import os

# Torch's OpenMP threads spin while they wait and, on shared cores, slow each other several times over.
# The library reads this once, when it loads, so it has to stand before the first `import torch`.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
