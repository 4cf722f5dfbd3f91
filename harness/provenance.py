"""What made a number: the versions of packages and the state of the code."""

import functools
import importlib.metadata
import subprocess
from pathlib import Path

PACKAGES = ("torch", "torchvision", "ray", "optuna", "mlflow", "captum", "numpy", "saliency-harness")


@functools.cache
def code() -> dict[str, str]:
    """`package.<name>`: its version, where it is installed; `git`: the commit, and whether files differ from it."""
    found = {}
    for package in PACKAGES:
        try:
            found[f"package.{package}"] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    dirty = " with uncommitted changes" if _git("status", "--porcelain") else ""
    commit = _git("rev-parse", "--short=12", "HEAD")
    return found | {"git": f"{commit}{dirty}" if commit else "not a git checkout"}


def _git(*words: str) -> str:
    """What git says of this checkout; "" where it is none."""
    here = Path(__file__).parent
    try:
        return subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
