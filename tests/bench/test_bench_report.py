"""The made-up runs of the report's benchmark are read as real ones are, and their page keeps to its size."""

import shutil

import pandas as pd
import pytest

from harness.bench import report
from reports.analyse import counted_runs
from reports.read import runs
from reports.write.report import write

WANTED = 100


def filled(folder, images):
    """Runs of a store that the benchmark filled, as a report reads them, and their files."""
    uri, count = report.fill(WANTED, folder, images=images)
    frame = runs.read(uri, *runs.experiments(uri))
    assert len(frame) == count == WANTED
    return frame, counted_runs.read_files(uri, frame)


@pytest.fixture(scope="module")
def few(tmp_path_factory, empty_store):
    """Of few images."""
    folder = tmp_path_factory.mktemp("few")
    shutil.copy(empty_store, folder / "mlflow.db")
    return filled(folder, 30)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return filled(tmp_path_factory.mktemp("store"), 300)


@pytest.mark.parametrize("which", ["few", pytest.param("made", marks=pytest.mark.slow)])
def test_the_runs_are_those_of_a_sweep(which, request):
    frame, files = request.getfixturevalue(which)
    search, tested = frame[frame["role"] == "search"], counted_runs.tested(frame)
    assert set(search["state"]) == {"complete", "pruned", "failed"}
    assert len(tested) == len(frame) - len(search) > 0
    best = search[search["state"] == "complete"].set_index("key")["val/robust"]
    for cell, seeds in tested.groupby("cell"):
        theirs = search[(search["cell"] == cell) & (search["state"] == "complete")]
        assert set(best[seeds["winner"]]) == {theirs["val/robust"].max()}
    assert search.loc[search["state"] == "pruned", "val/robust"].isna().all()
    for row in tested.to_dict("records"):
        kept = files.images[row["run_id"]]
        assert kept["test/robust"].mean(dtype=float) == pytest.approx(row["test/robust"], abs=1e-3)  # half precision
    assert set(files.pictures) == set(tested["row"])


@pytest.mark.slow
def test_a_page_of_a_thousand_runs_stays_below_ten_megabytes(made, tmp_path):
    frame, files = made
    copies = [
        frame.assign(
            number=frame["number"] + 100 * i,
            key=frame["key"] + "abcdefghij"[i],
            run_id=frame["run_id"] + "abcdefghij"[i],
        )
        for i in range(10)
    ]
    pages = write(pd.concat(copies, ignore_index=True), tmp_path, "many", files)
    assert sum(len(copy) for copy in copies) == 1000
    assert max(page.stat().st_size for page in pages) < 10e6
