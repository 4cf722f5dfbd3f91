"""Provenance: package versions, git commit, and a digest of the code that trials run."""

import functools
import hashlib
import importlib.metadata
import os
import subprocess
from pathlib import Path

PACKAGES = ("torch", "torchvision", "ray", "optuna", "mlflow", "captum", "numpy", "saliency-harness")
COMMIT = "HARNESS_COMMIT"  # environment variable: the commit, where the code was sent without its repository
RUN_BY_TRIALS = ("harness", "methods")  # packages; spaces and reports change no trial


def code() -> dict[str, str]:
    """`package.<name>`: version of each installed package; `git`: commit, and whether files differ; `sources`: digest.

    `git` is $HARNESS_COMMIT where that is set.
    """
    return _versions() | {"git": commit() or "not a git checkout", "sources": digest()}


@functools.cache
def _versions() -> dict[str, str]:
    versions = {}
    for package in PACKAGES:
        try:
            versions[f"package.{package}"] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def commit() -> str:
    """The commit, as `a1b2c3d4e5f6` or `a1b2c3d4e5f6 with uncommitted changes`; "" if it is unknown."""
    return os.environ.get(COMMIT, "").strip() or _commit_of_checkout()


@functools.cache
def _commit_of_checkout() -> str:
    dirty = " with uncommitted changes" if _git("status", "--porcelain") else ""
    head = _git("rev-parse", "--short=12", "HEAD")
    return f"{head}{dirty}" if head else ""


def _git(*arguments: str) -> str:
    """Output of a git command in this checkout; "" if this is no git checkout."""
    here = Path(__file__).parent
    try:
        return subprocess.run(
            ["git", *arguments], cwd=here, capture_output=True, encoding="utf-8", check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


@functools.cache
def digest(root: Path = Path(__file__).parents[2]) -> str:
    """First 12 hexadecimal digits of the SHA-256 of all modules that trials run: their paths and bytes.

    The same for a checkout and for what is installed from it. Cached: this process imported what it then found.
    """
    total = hashlib.sha256()
    modules = (file for package in RUN_BY_TRIALS for file in (root / package).rglob("*.py"))
    for name in sorted(file.relative_to(root).as_posix() for file in modules):
        content = hashlib.sha256((root / name).read_bytes()).hexdigest()
        total.update(f"{name} {content}\n".encode())
    return total.hexdigest()[:12]
