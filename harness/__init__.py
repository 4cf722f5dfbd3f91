"""Hyperparameter search and evaluation of robust and explainable image classifiers."""

import os
import sys
from pathlib import Path

# Torch's OpenMP threads busy-wait by default, which slows runs on shared cores several times.
# OpenMP reads this once, on loading, so it must be set before the first `import torch`.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

_ROOT = Path(__file__).resolve().parent.parent


def _shadows(entry: str) -> bool:
    """Whether this entry of the path has modules of the names of ours."""
    names = (f"{name}{end}" for name in ("methods", "reports", "search_spaces") for end in ("", ".py"))
    return Path(entry).resolve() != _ROOT and any(os.path.exists(os.path.join(entry, name)) for name in names)


# `python -m` puts the current folder first on the path, and so does Ray in its workers. A user's own methods.py there
# comes after our package of that name; whatever else lies there is found as before.
if sys.argv[:1] == ["-m"] or Path(*sys.argv[:1]).name == "default_worker.py":
    _later = [entry for entry in sys.path if _shadows(entry)]
    if _later:
        sys.path[:] = [*(entry for entry in sys.path if entry not in _later), str(_ROOT), *_later]
