"""The built wheel holds every package and data file, and works where the checkout is not."""

import os
import subprocess
import sys
import zipfile

from sweeps import ROOT

PACKAGES = ("harness", "methods", "search_spaces", "reports")


def test_an_installed_wheel_holds_everything_and_lists_its_spaces(tmp_path):
    build = "import sys; from setuptools.build_meta import build_wheel; print(build_wheel(sys.argv[1]))"
    source = tmp_path / "source"
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode()
    for name in filter(None, files.split("\0")):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    built = subprocess.run([sys.executable, "-c", build, str(tmp_path)], cwd=source, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    asked = {f.relative_to(source).as_posix() for p in PACKAGES for f in (source / p).rglob("*") if f.is_file()}
    assert asked and not sorted(asked - held)
    where = tmp_path / "installed"
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--no-index",
        "--target",
        str(where),
        str(wheel),
    ]
    assert subprocess.run(install, cwd=tmp_path, capture_output=True).returncode == 0
    code = (
        "import sys; sys.path.insert(0, sys.argv.pop(1)); import harness, runpy; print(harness.__file__);"
        "runpy.run_module('harness.tune', run_name='__main__')"
    )
    words = [sys.executable, "-c", code, str(where), "--list"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(where)) and "\nsat " in done.stdout

    own = tmp_path / "own" / "reports"
    own.mkdir(parents=True)
    (own / "__init__.py").write_text("raise SystemExit('the own one is taken')")
    words = [str(where / "bin" / "harness-reports"), "--help"]
    path = {**os.environ, "PYTHONPATH": str(where)}
    done = subprocess.run(words, cwd=own.parent, capture_output=True, text=True, env=path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: python -m reports")
