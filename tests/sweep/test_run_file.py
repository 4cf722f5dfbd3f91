"""Run files: the same sweep as the command line, options over them, and the line of what is wrong."""

import sys
import tomllib

import pytest

from harness import tune
from harness.errors import UserError, exit_status
from harness.sweep import run_file
from harness.sweep.request import Request

RUN = """
space = "smoke"
trials = 4
cell = ["sat"]

[set]
epochs = 4
"method.eps" = 0.1
optim.momentum = 0.8
"""
STUDY = """
trials = 2
[study]
name = "mine"
[study.base]
method = "pgd"
[study.search]
optim.lr = {within = 2}
[study.compare]
"few steps" = {"method.steps" = 2}
"more steps" = {"method.steps" = 4}
"""


def plan_of(words):
    return tune._planned(tune.arguments([str(word) for word in words]))


@pytest.fixture
def file(tmp_path):
    """A function from a text to a run file with it."""

    def made(text, name="run.toml"):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return made


def test_a_run_file_is_its_command_line(file):
    words = ["--space", "smoke", "--trials", "4", "--cell", "sat", "--set", "epochs=4", "--set", "method.eps=0.1"]
    of_file, of_words = plan_of([file(RUN)]), plan_of([*words, "--set", "optim.momentum=0.8"])
    assert of_file == of_words and of_file.trials == 4


def test_options_override_the_file(file):
    words = ["--trials", "9", "--set", "epochs=5", "--cell", "standard", "--data", "shapes"]
    planned = plan_of([file(RUN.replace('"method.eps" = 0.1', "")), *words])
    (cell,) = planned.studies.values()
    assert (planned.trials, cell.trial.epochs, cell.name, cell.data) == (9, 5, "standard", "shapes")
    assert cell.trial.optim.momentum == 0.8


COMMANDS = [
    ["--space", "sat", "--trials", "20", "--seeds", "0", "--seed", "-3", "--gpus", "0.25", "--workers", "3"],
    ["--space", "pgd", "--cell", "pgd", "--set", "method=trades", "--set", "epochs=30", "--set", "normalise=true"],
    ["--space", "smoke", "--set", "data.split=1", "--set", "measure.eps=4/255,8/255", "--set", "maps.binarise=none"],
    ["--space", "smoke", "--data", "shapes", "--out", "a b/ä", "--keep", "all", "--register", "-m", "--cpus", "2"],
    ["--space", "smoke", "--tracking-uri", "http://127.0.0.1:5000", "--address", "auto", "--time-limit", "1e3"],
]


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words[1:4]))
def test_a_written_run_is_the_same_sweep(words, tmp_path, monkeypatch, capsys):
    words = [f"{word}={words[i + 1]}" for i, word in enumerate(words) if i % 2 == 0]
    monkeypatch.setattr(sys, "argv", ["tune", *words, "--write-run", str(tmp_path / "run.toml")])
    assert exit_status(tune.main) == 0 and "harness.tune" in capsys.readouterr().out
    ours, theirs = plan_of(words), plan_of([tmp_path / "run.toml"])
    assert ours.studies == theirs.studies and ours.sweep == theirs.sweep
    text = {path: str(value).lower() for path, value in theirs.request.settings.items()}
    assert (vars(ours.request) | {"settings": text}) == (vars(theirs.request) | {"settings": text})
    assert exit_status(tune.main) == 2 and "exists already" in capsys.readouterr().err


def test_a_study_in_a_run_file_is_written_with_it(file, tmp_path):
    planned = plan_of([file(STUDY)])
    assert planned.experiment == "mine-digits" and planned.trials == 2
    run_file.write(planned.request, tmp_path / "again.toml")
    again = plan_of([tmp_path / "again.toml"])
    assert (again.studies, again.sweep) == (planned.studies, planned.sweep)


def test_a_study_in_a_file_of_its_own_is_a_space(file, tmp_path):
    text = STUDY.replace("[study]\n", "").replace("study.", "")
    assert plan_of(["--space", file(text, "own.toml")]).studies == plan_of([file(STUDY)]).studies


def test_a_password_is_not_written():
    text = run_file.written(Request("smoke", tracking_uri="http://me:secret@host:5000", trials=3))
    assert tomllib.loads(text) == {"space": "smoke", "trials": 3}


def test_a_sweep_keeps_its_run_file(undisturbed):
    (kept,) = (undisturbed.out / "reports").glob("smoke-digits-*.toml")
    planned = plan_of([kept, "--out", undisturbed.out])
    assert f"-{planned.sweep}." in kept.name and planned.request.space == "smoke"


WRONG = {
    'space = "sat': (1, "unterminated string"),
    'space = "sat"\ntrials = 3\ntrials = 4': (3, "cannot overwrite a value"),
    'space = "sat"\n\ntrails = 3': (3, "there is no key 'trails' here; did you mean 'trials'?"),
    'space = "sta"': (1, "space 'sta' is not known; did you mean 'sat'?"),
    'space = "sat"\ntrials = "six"': (2, "trials takes a whole number, not 'six'"),
    'space = "sat"\ntrials = 0': (2, "trials must be at least 1, not 0"),
    'space = "sat"\ntrials = [1, 2]': (2, "trials takes a number or a text, not '[1, 2]'"),
    'space = "sat"\nseeds = true': (2, "seeds takes a number or a text, not 'True'"),
    'space = "sat"\n\nkeep = "winner"': (3, "keep takes winners or all, not 'winner'"),
    'space = "sat"\ncell = ["noise",\n  "satt"]': (2, "cell 'satt' is not known"),
    'space = "sat"\nset = 3': (2, "set is a table of settings: [set]"),
    'space = "sat"\n[set]\nepochs = 3\nmethod.alhpa10 = 1': (4, "did you mean 'alpha10'?"),
    'space = "sat"\n[set]\n"epochs" = "ten"': (3, "epochs takes a number such as 0.03 or 8/255, not 'ten'"),
    'space = "sat"\n[set]\noptim = {lr = 0.1,  momentun = 0.9}': (3, "did you mean 'momentum'?"),
    'space = "sat"\n[set]\nepochs = 2020-01-01': (3, "epochs takes a number, a text, true or false, or several"),
    'space = "sat"\ncpus = 0': (2, "cpus must be more than 0"),
    'device = "cpu"\nspace = "sat"\ngpus = 1': (1, "device cpu and --gpus contradict each other"),
    'space = "sat"\nout = ""': (2, "out takes a folder or a URI, not an empty name"),
    'space = "smoke"\n[sett]\nepochs = 3': (2, "there is no key 'sett' here; did you mean 'set'?"),
    'space = "smoke"\n[study]\nname = "a"': (1, "there is a study in this file, so it takes no space"),
    "[study]\ncompare = {a = {method = 'pgd'}}": (1, "a study within a run file has a name"),
    "[study]\nname = 'sat'\ncompare = {a = {method = 'pgd'}}": (2, "the study 'sat' has the name of another space"),
    "[study]\nname = 'a'\n[study.compare]\na = {method = 'pgd'}\nb = {method = 'pdg'}": (5, "did you mean 'pgd'?"),
    "trials = 3": (1, "name a space"),
}


@pytest.mark.parametrize("text", WRONG)
def test_what_is_wrong_has_its_line(file, text, monkeypatch, capsys):
    line, said = WRONG[text]
    path = file(text)
    monkeypatch.setattr(sys, "argv", ["tune", str(path), "--dry-run"])
    assert exit_status(tune.main) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"error: {path}, line {line}: ") and said in message and message.count("\n") == 1


def test_what_is_wrong_on_the_command_line_has_no_line(file):
    with pytest.raises(UserError, match=r"^a trial has no 'epohcs'"):
        plan_of([file(RUN), "--set", "epohcs=3"])


@pytest.mark.parametrize(
    ("content", "said"), [(None, "cannot read"), (b"space = '\xff'", "line 1: .* not text in UTF-8")]
)
def test_a_file_that_cannot_be_read(tmp_path, content, said):
    if content is not None:
        (tmp_path / "run.toml").write_bytes(content)
    with pytest.raises(UserError, match=said):
        plan_of([tmp_path / "run.toml"])


def test_a_file_that_is_not_there_is_named_with_the_nearest(tmp_path):
    (tmp_path / "run.toml").touch()
    with pytest.raises(UserError, match=r"runn.toml': No such file or directory; did you mean 'run.toml'"):
        plan_of([tmp_path / "runn.toml"])
