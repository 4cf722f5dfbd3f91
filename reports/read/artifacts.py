"""Read run artifacts from MLflow: per-image scores (test.npz) and pictures (gallery.npz)."""

import functools
import itertools
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from harness.errors import UserError, one_line
from harness.storage import npz
from harness.tracking.artifact_places import ArtifactPlaces, NoSuchArtifact
from harness.tracking.mlflow_client import opened_reader
from harness.tracking.refusals import is_final

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Files:
    """images: run id -> ranked score -> one value per test image. pictures: leaderboard row -> gallery arrays.

    problems: lines about artifacts that were not read.
    """

    images: Mapping[str, Arrays] = field(default_factory=dict)
    pictures: Mapping[str, Arrays] = field(default_factory=dict)
    problems: tuple[str, ...] = ()


def read(uri: str, tested: pd.DataFrame, ranked: str, folders: Iterable[Path] = ()) -> Files:
    """The artifacts of these runs at a tracking URI; see `collect`.

    folders: trusted folders on this machine, besides the store's own. Raises `UserError` if the store cannot be read.
    """
    places = ArtifactPlaces(uri, folders)
    with opened_reader(uri), tempfile.TemporaryDirectory() as downloads:
        ways = map("{}/{}".format, itertools.repeat(downloads), itertools.count())
        return collect(tested, ranked, lambda run, place, name: places.file(run, place, name, Path(next(ways))))


def collect(tested: pd.DataFrame, ranked: str, file: Callable[[str, str, str], Path]) -> Files:
    """The artifacts of these runs: per-image values of the score `ranked`, the pictures of each row's first seed.

    file(run id, place, name): the local path of an artifact. Missing and damaged artifacts are skipped. After a place
    that does not answer none is asked.
    """
    images, pictures, refused = {}, {}, {}
    ordered = tested.sort_values(["row", "number"], kind="stable")
    for run in ordered[["run_id", "row", "artifacts"]].to_dict("records"):
        of = str(run["run_id"]), str(run["artifacts"] or "")
        try:
            if arrays := _arrays(functools.partial(file, *of), "test.npz", ranked):
                images[run["run_id"]] = arrays
            if run["row"] not in pictures and (arrays := _arrays(functools.partial(file, *of), "gallery.npz")):
                pictures[run["row"]] = arrays
        except UserError as error:
            refused[run["run_id"]] = str(error)
        except Exception as error:  # backends of artifacts raise their own types
            return Files(images, pictures, (*_refusals(refused), f"the artifacts cannot be read: {one_line(error)}"))
    return Files(images, pictures, _refusals(refused))


def _refusals(refused: Mapping[str, str]) -> tuple[str, ...]:
    """One line for all runs that were refused, with the reason of the first."""
    first = next(iter(refused.values()), "")
    more = f" (and those of {len(refused) - 1} more runs)" if len(refused) > 1 else ""
    return (f"{first}{more}",) if refused else ()


def _arrays(file: Callable[[str], Path], name: str, only: str = "") -> dict[str, np.ndarray]:
    """The arrays of an artifact, or only one of them; empty if missing or damaged, since reports skip those."""
    try:
        path = file(name)
    except NoSuchArtifact:
        return {}
    except UserError:
        raise
    except Exception as error:  # as above
        if is_final(error):
            return {}
        raise
    try:
        return npz.read(path, only)
    except (UserError, OSError):
        return {}
