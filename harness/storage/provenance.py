"""Provenance: package versions and git commit."""

import functools
import importlib.metadata
import subprocess
from pathlib import Path

PACKAGES = ("torch", "torchvision", "ray", "optuna", "mlflow", "captum", "numpy", "saliency-harness")


@functools.cache
def code() -> dict[str, str]:
    """`package.<name>`: version of each installed package; `git`: commit, and whether files differ from it."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[f"package.{package}"] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    dirty = " with uncommitted changes" if _git("status", "--porcelain") else ""
    commit = _git("rev-parse", "--short=12", "HEAD")
    return versions | {"git": f"{commit}{dirty}" if commit else "not a git checkout"}


def _git(*arguments: str) -> str:
    """Output of a git command in this checkout; "" if this is no git checkout."""
    here = Path(__file__).parent
    try:
        return subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
