"""Code of others by name: one source, one digest, one import; and one line for whatever is wrong with it."""

import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from sweeps import ROOT

from harness import plugins
from harness.errors import UserError

ALP = """
from dataclasses import dataclass
import strength
from strength import WEIGHT as weight
import parts.deep
from parts import deep as same

@dataclass(frozen=True)
class ALP:
    weight: float = weight
    def total(self):
        import strength as again
        return self.weight + again.WEIGHT + parts.deep.ONE + same.ONE
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a plug-in of several files, which is the current one."""
    here = tmp_path / "ideas"
    for name, text in {
        "alp.py": ALP,
        "strength.py": "WEIGHT = 0.5\n",
        "parts/__init__.py": "",
        "parts/deep.py": "from strength import WEIGHT\nfrom .one import ONE\n",
        "parts/one.py": "ONE = 1\n",
        "other.py": "raise AssertionError\n",
        "os.py": "raise AssertionError\n",
    }.items():
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_text(text)
    monkeypatch.chdir(here)
    return here


def test_a_file_is_loaded_with_the_modules_beside_it_that_it_imports(folder):
    pinned = plugins.pinned("alp.py:ALP")
    assert plugins.source(pinned).files.keys() == {
        "alp.py",
        "strength.py",
        "parts/__init__.py",
        "parts/deep.py",
        "parts/one.py",
    }
    assert plugins.load(pinned)().total() == 3.0
    assert plugins.load("alp.py:ALP") is plugins.load(pinned)
    assert plugins.reference(plugins.load(pinned)) == pinned
    assert "strength" not in sys.modules and "parts" not in sys.modules
    assert plugins.references((pinned, "sat", 3)) == plugins.references(f"cam+{pinned}") == [pinned]


def test_the_name_is_the_same_wherever_the_file_lies_and_another_after_an_edit(folder, monkeypatch):
    before = plugins.pinned("alp.py:ALP")
    first = plugins.load(before)
    monkeypatch.chdir(folder.parent)
    assert plugins.pinned("ideas/alp.py:ALP") == before == plugins.pinned(f"{folder}/alp.py:ALP")
    assert plugins.pinned(before) == before and plugins.pinned("sat") == "sat"
    (folder / "strength.py").write_text("WEIGHT = 2.0\n")
    after = plugins.pinned("ideas/alp.py:ALP")
    assert after != before and after.partition("@")[0] == "alp.py:ALP"
    assert plugins.load(after)().total() == 6.0
    assert first().total() == 3.0 and plugins.load(before) is first  # each has its own `strength`
    (folder / "other.py").write_text("")
    assert plugins.pinned("ideas/alp.py:ALP") == after  # which imports no `other`


FROM_COPY = """
import pickle, sys
from pathlib import Path
from harness import plugins
plugins.search("test", lambda digest: Path(sys.argv[1]) / digest)
thing = pickle.loads(bytes.fromhex(sys.argv[2]))
print(thing.total(), plugins.reference(type(thing)), thing == plugins.load(sys.argv[3])())
"""


def test_an_instance_is_unpickled_elsewhere_from_a_copy(folder, tmp_path):
    pinned = plugins.pinned("alp.py:ALP")
    for name, content in plugins.source(pinned).files.items():
        copy = tmp_path / "kept" / pinned.partition("@")[2] / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(content)
    sent = pickle.dumps(plugins.load(pinned)()).hex()
    (folder / "alp.py").unlink()
    done = subprocess.run(
        [sys.executable, "-c", FROM_COPY, str(tmp_path / "kept"), sent, pinned],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == ["3.0", pinned, "True"], done.stderr


def test_a_damaged_copy_and_none_at_all_are_named(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(plugins, "_sources", {})
    unknown = "alp.py:ALP@0123456789ab"
    with pytest.raises(
        UserError, match=r"^the source of the plug-in 'alp\.py:ALP@0123456789ab' is not here"
    ) as mistake:
        plugins.load(unknown)
    assert str(mistake.value).endswith("alp.py:ALP")
    (tmp_path / "0123456789ab").mkdir()
    (tmp_path / "0123456789ab" / "alp.py").write_text("class ALP: pass")
    plugins.search("test", lambda digest: tmp_path / digest)
    with pytest.raises(UserError, match=r"0123456789ab' is damaged: its digest is [0-9a-f]{12}$"):
        plugins.load(unknown)


@pytest.mark.parametrize(
    "reference, text, words",
    [
        ("apl.py:ALP", "", ["there is no file 'apl.py'", "did you mean 'alp.py'?"]),
        ("no/alp.py:ALP", "", ["there is no file 'no/alp.py'"]),
        ("my.alp.py:ALP", "", ["without dots, not 'my.alp.py'"]),
        ("no_such_package.alp:ALP", "", ["there is no module 'no_such_package'"]),
        ("alp.py:APL", "ALP = 1", ["alp.py has no 'APL'", "did you mean 'ALP'?"]),
        ("alp.py:ALP.loss", "ALP = 1", ["alp.py has no 'loss'"]),
        ("alp.py:ALP", "\n\nx = 1 / 0\n", ["alp.py cannot be imported: alp.py, line 3: ZeroDivisionError"]),
        ("alp.py:ALP", "import strength\nstrength.f()", ["alp.py, line 2: AttributeError", "'f'"]),
        ("alp.py:ALP", "\ndef f(:\n", ["alp.py, line 2: invalid syntax"]),
        ("alp.py:ALP", "raise SystemExit(3)", ["alp.py, line 1: SystemExit: 3"]),
        ("alp.py:ALP", "import no_such_package", ["line 1: ModuleNotFoundError: No module named 'no_such_package'"]),
        ("alp.py:ALP", "\0", ["alp.py", "null bytes"]),
        ("alp.py", "", ["'alp.py' is no reference, such as alp.py:ALP"]),
    ],
)
def test_what_is_wrong_is_said_in_one_line(folder, reference, text, words):
    (folder / "alp.py").write_text(text)
    with pytest.raises(UserError) as mistake:
        plugins.load(reference)
    assert "\n" not in str(mistake.value) and all(word in str(mistake.value) for word in words), mistake.value


IN_PACKAGE = """
import sys
from pathlib import Path
from harness import plugins
if len(sys.argv) > 2:
    plugins.search("test", lambda digest: Path(sys.argv[2]) / digest)
try:
    thing = plugins.load(sys.argv[1])
    print(thing.VALUE, plugins.reference(thing))
except ValueError as error:
    print(error)
"""


def _in_package(*words: str, path: Path) -> str:
    env = {"PYTHONPATH": f"{ROOT}:{path}"}
    done = subprocess.run([sys.executable, "-c", IN_PACKAGE, *words], env=env, capture_output=True, text=True)
    assert not done.stderr
    return done.stdout.strip()


def test_a_package_is_known_by_all_of_its_modules(tmp_path):
    package = tmp_path / "site" / "idea"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "method.py").write_text("from idea.value import VALUE as value\nclass Own:\n    VALUE = value\n")
    (package / "value.py").write_text("VALUE = 1\n")
    value, pinned = _in_package("idea.method:Own", path=package.parent).split()
    digest = pinned.removeprefix("idea.method:Own@")
    assert value == "1" and len(digest) == 12
    (tmp_path / "kept" / digest).mkdir(parents=True)
    (package.parent / "idea").rename(tmp_path / "kept" / digest / "idea")
    gone = _in_package(pinned, path=package.parent)
    assert gone.startswith(f"the source of the plug-in '{pinned}' is not here")
    assert _in_package(pinned, str(tmp_path / "kept"), path=package.parent) == f"1 {pinned}"
    package.mkdir()
    for name in ("__init__.py", "method.py"):
        (package / name).write_text((tmp_path / "kept" / digest / "idea" / name).read_text())
    (package / "value.py").write_text("VALUE = 2\n")
    edited = _in_package("idea.method:Own", path=package.parent)
    assert edited.startswith("2 idea.method:Own@") and digest not in edited
    assert _in_package(pinned, str(tmp_path / "kept"), path=package.parent) == f"1 {pinned}"
