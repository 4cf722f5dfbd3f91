"""`examples/notebook.ipynb`: every cell runs in order, in a fresh process and in a kernel; its outputs are real."""

import json
import os
import re
import subprocess
import sys

import pytest
from sweeps import LIMIT, ROOT

FILE = ROOT / "examples" / "notebook.ipynb"
NOTEBOOK = json.loads(FILE.read_text())
CODE = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]

# What a kernel does, without one: the value of a cell's last line is shown as HTML where it can be.
CELLS = """
import ast, json, sys
names = {"__name__": "__main__"}
for cell in json.load(open(sys.argv[1]))["cells"]:
    if cell["cell_type"] == "code":
        *body, last = ast.parse("".join(cell["source"])).body
        if not isinstance(last, ast.Expr):
            body, last = [*body, last], None
        exec(compile(ast.Module(body, []), "cell", "exec"), names)
        if last:
            value = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
            print("value", getattr(value, "_repr_html_", lambda: repr(value))()[:20], flush=True)
"""


def texts(outputs):
    """What a cell printed; on standard error libraries ask for ipywidgets."""
    return "".join("".join(output["text"]) for output in outputs if output.get("name") == "stdout")


def kinds(outputs):
    """The forms of the value that a cell shows."""
    return [sorted(output["data"]) for output in outputs if output["output_type"] != "stream"]


def test_it_is_stored_with_the_outputs_of_one_run_in_order():
    assert [cell["execution_count"] for cell in CODE] == list(range(1, len(CODE) + 1))
    assert all(cell["outputs"] for cell in CODE) and FILE.stat().st_size < 100_000
    streams = [output for cell in CODE for output in cell["outputs"] if output["output_type"] == "stream"]
    assert {output["name"] for output in streams} == {"stdout"}
    assert not any(output["output_type"] == "error" for cell in CODE for output in cell["outputs"])


@pytest.mark.slow
def test_its_cells_run_in_a_process(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-c", CELLS, str(FILE)]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 0, done.stderr
    shown = re.findall(r"^value ", done.stdout, re.M)
    assert len(shown) == sum(bool(kinds(cell["outputs"])) for cell in CODE)
    assert done.stdout.endswith(texts(CODE[-1]["outputs"]))  # the error line
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


@pytest.mark.peer
def test_its_cells_run_in_a_kernel_and_print_plain_lines(tmp_path, monkeypatch):
    """A kernel has a loop of events in the main thread, an output that is no file, and Ray's own display is for it."""
    reason = "{} is not installed; `make peers` does"
    nbclient = pytest.importorskip("nbclient", reason=reason.format("nbclient"))
    pytest.importorskip("ipykernel", reason=reason.format("ipykernel"))
    import nbformat

    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
    book = nbformat.read(FILE, 4)
    nbclient.NotebookClient(book, timeout=LIMIT, resources={"metadata": {"path": str(tmp_path)}}).execute()
    for stored, cell in zip(CODE, (cell for cell in book.cells if cell.cell_type == "code"), strict=True):
        assert kinds(cell.outputs) == kinds(stored["outputs"]), cell.source
        assert "\r" not in texts(cell.outputs)
    swept = texts(next(cell.outputs for cell in book.cells if "tune(space" in cell.source))
    assert re.match(r"notebook-my-digits-[0-9a-f]{12}: 2 cells; results in .*\n10 trials to go\n(.*\n)+", swept)
