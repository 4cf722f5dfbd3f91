"""Forty wrong values for every option and every setting of the commands: status 2, one line, no traceback."""

import argparse
import collections
import math
import random
import re
import shutil
import sys
import time

import pytest

import methods
from harness import cli, deliver, evaluate, prune, trial, tune
from harness.arguments import number
from harness.bench import __main__ as bench
from harness.config.space import NamedSpace, Space
from harness.config.trial import build
from harness.errors import UserError, exit_status
from harness.storage import remote_store
from harness.trials import run, step_cost
from reports import __main__ as reports
from reports import export, verify

WRONG = (
    *("", " ", "x", "nan", "-inf", "1e308", "-1e308", "1e999999999", "1/1e999999999", "9" * 20, "9" * 5000),
    *("-" + "9" * 400, "9" * 400 + "/7", "1/0", "1/", "1/2/3", "0x10", "1,,2", ",", "[]", "{}", "a\nb", "a\x1b[31m"),
    *(
        "1e",
        "1j",
        "$(x)",
        "%s",
        "github://x",
        "../x",
        "/nowhere/at/all",
        "x" * 200_000,
        "\ud800",
        "\0",
        "\u202e1",
        "½",
        "~",
    ),
    *("http://", "zip://::x", "tar://::x", "memory://x/../../y"),
)
SECONDS = 60  # of one command with wrong arguments: not a time to keep, but one that says that it hangs

# Options that take any text, of which some of the values above are fair: files, folders, URIs and addresses.
ANY_TEXT = {"--out", "--data-root", "--tracking-uri", "--address", "--weights", "--json", "--features", "--register"}
ANY_TEXT |= {"reports verify --keep", "--warm-start"}  # a dry run does not open the journal

BENCHMARKS = ((bench.sweep, "_Clock"), (bench.epochs, "step_seconds"), (bench.report, "report"), (bench.fleet, "fleet"))
# What an option of `harness.bench` is of, where not of all benchmarks; elsewhere it is not looked at.
NET = ("attribution", "evaluation")  # benchmarks of a trained net
OF_BENCHMARK = {"--set": ("epochs", *NET), "--methods": ("epochs",), "--space": ("sweep",), "--sides": ("attribution",)}
OF_BENCHMARK |= dict.fromkeys(("--trial", "--data", "--data-root", "--out"), NET)
OF_BENCHMARK |= dict.fromkeys(("--declare", "--cpus", "--sleep"), ("fleet",))


class Reached(BaseException):
    """The arguments were taken, and the work that they ask for would begin."""


def reached(*_, **__):
    raise Reached


def numeric(text, whole):
    """Whether Python's own reading makes a finite number of a text, a whole one if that is asked for."""
    try:
        number = float(text)
    except ValueError:
        return False
    return math.isfinite(number) and (not whole or (number.is_integer() and abs(number) < 2**63))


class Asked:
    """Runs commands in this process; counts what they refuse and take, and keeps what goes wrong."""

    def __init__(self, monkeypatch, capfd):
        self._monkeypatch, self._capfd = monkeypatch, capfd
        self.counts, self.faults = collections.defaultdict(collections.Counter), []

    def run(self, main, words):
        """The end of a command: `taken`, `refused`, or what is wrong with it."""
        self._monkeypatch.setattr(sys, "argv", ["command", *words])
        began = time.monotonic()
        try:
            status = exit_status(main)
        except Reached:
            status = 0
        except SystemExit as ended:
            return f"SystemExit {ended.code}"
        except BaseException as error:
            return f"{type(error).__name__}: {error}"[:200]
        said = self._capfd.readouterr().err
        if time.monotonic() - began > SECONDS:
            return "hangs"
        if status == 0:
            return "taken"
        if status != 2 or not re.fullmatch(r"error: [^\n]{1,1500}\n", said):
            return f"status {status}: {said[:300]!r}"
        return "refused"

    def ask(self, command, main, words, what, value, fair):
        """Run a command with one wrong value. fair: whether it may be taken all the same."""
        end = self.run(main, words)
        self.counts[command][end if end in ("taken", "refused") else "fault"] += 1
        if end not in (("refused", "taken") if fair else ("refused",)):
            self.faults.append(f"{command} {what} {value[:40]!r}: {end}")


@pytest.fixture
def asked(tmp_path, monkeypatch, capfd, empty_store):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(remote_store, "RETRY_PAUSES", ())
    monkeypatch.setattr(step_cost, "epoch_seconds", lambda *_: 1e-3)
    monkeypatch.setattr(run, "_train", reached)
    monkeypatch.setattr(deliver, "deliver_all", reached)
    monkeypatch.setattr(prune, "_prune", reached)
    for module, name in BENCHMARKS:
        monkeypatch.setattr(module, name, reached)
    (tmp_path / "runs/events").mkdir(parents=True)
    (tmp_path / "runs/events/a.jsonl").write_text('{"experiment": "x"}\n')
    (tmp_path / "runs/optuna.journal").write_text("")
    shutil.copy(empty_store, tmp_path / "runs/mlflow.db")
    return Asked(monkeypatch, capfd)


def options(main, words, monkeypatch):
    """The options with a value, and the places, of a command's parser."""
    parsers = []

    def parse_known_args(self, *_, **__):
        parsers.append(self)
        raise Reached

    with monkeypatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_known_args", parse_known_args)
        patch.setattr(sys, "argv", ["command", *words])
        with pytest.raises(Reached):
            main()
    return [a for a in parsers[0]._actions if a.nargs is None]


COMMANDS = {
    "harness.tune": (tune.main, ("--space", "smoke", "--dry-run")),
    "harness.trial": (trial.main, ("--space", "smoke")),
    "harness.evaluate": (evaluate.main, ("--space", "smoke")),
    "harness.deliver": (deliver.main, ()),
    "harness.prune": (prune.main, ()),
    "reports": (reports.main, ()),
    "reports verify": (verify.main, ("a" * 32,)),
    "reports export": (export.main, ("a" * 32,)),
    **{f"harness.bench {name}": (bench.main, (name,)) for name in bench.BENCHMARKS},
}


@pytest.mark.sample("harness.trial", "harness.deliver", "harness.prune", "reports")
@pytest.mark.parametrize("command", COMMANDS)
def test_every_option(command, asked, monkeypatch):
    assert len(set(WRONG)) == 40
    main, words = COMMANDS[command]
    values = random.Random(0).sample(WRONG, len(WRONG))
    for action in options(main, words, monkeypatch):
        name = action.option_strings[0] if action.option_strings else action.dest
        if command.startswith("harness.bench") and words[0] not in OF_BENCHMARK.get(name, words):
            continue
        for value in values:
            given = [f"{name}={value}"] if action.option_strings else [value]
            kept = [] if not action.option_strings else list(words)
            fair = name in ANY_TEXT or f"{command} {name}" in ANY_TEXT
            fair |= action.type is number and numeric(value, whole=False)
            fair |= name == "--seed" and numeric(value, whole=True)
            asked.ask(command, main, [*kept, *given], name, value, fair)
    print(dict(asked.counts[command]))
    assert not asked.faults, "\n".join(asked.faults)


def settings():
    """(method, path, value) of every setting: those of every method, and all others, of one that reads maps."""
    yield from (("sat", *item) for item in build({"method": "sat", **ATTACKED}).flat().items())
    for name in methods.names():
        yield from ((name, *item) for item in build({"method": name}).flat().items() if item[0].startswith("method."))


ATTACKED = {"measure.suites": "standard,attribution"}  # the suites that have all settings


@pytest.mark.slow
def test_every_setting(asked, monkeypatch):
    order = random.Random(0)
    for name, path, value in settings():
        space = Space(base={}, compare={"one": {"method": name, **ATTACKED}}, search={})
        monkeypatch.setattr(cli, "named_space", lambda name, space=space: NamedSpace(name, space))
        for wrong in order.sample(WRONG, len(WRONG)):
            number = isinstance(value, int | float) and not isinstance(value, bool)
            fair = number and numeric(wrong, isinstance(value, int))
            fair |= value == "" == wrong.strip()  # the default
            words = ["--space", "smoke", "--set", f"{path}={wrong}", "--dry-run"]
            asked.ask("harness.tune", tune.main, words, path, wrong, fair)
    print(dict(asked.counts["harness.tune"]))
    assert not asked.faults, "\n".join(asked.faults)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--trails", "5"], "there is no option '--trails'; did you mean '--trials'?"),
        (["--trials", "many"], "--trials takes a whole number, not 'many'"),
        (["--trials", "0"], "--trials must be at least 1, not 0"),
        (["--seeds", "9999999"], "--seeds must be at most 1000000, not 9999999"),
        (["--cpus", "1e-9"], "--cpus must be at least 0.0001, not 1e-09"),  # Ray's unit
        (["--gpus", "1.5"], "--gpus above 1 must be a whole number: Ray divides only one GPU; not 1.5"),
        (["--time-limit", "1e13"], "--time-limit must be a number of seconds up to 1e+09, not 1e+13"),
        (["--cpus", "few"], "--cpus takes a number, not 'few'"),
        (["--trials"], "--trials expected one argument"),
        (["--out", ""], "--out takes a folder or a URI, not an empty name"),
        (["--tracking-uri", ""], "--tracking-uri takes a text that is not empty"),
        (["--set", "epochs=1e308"], "epochs must be at most 1000000, not 1000000000"),
        (["--set", "batch=99999999999999999999"], "batch must be at most 65536, not 99999999999999999999"),
        (["--set", "data.size=100000"], "data.size must be at most 4096, not 100000"),
        (["--data-root", "github://x"], "cannot use 'github://x': TypeError: "),
    ],
)
def test_what_is_said_of_a_wrong_argument(asked, capfd, monkeypatch, words, said):
    monkeypatch.setattr(sys, "argv", ["tune", "--space", "smoke", "--data", "mine", "--dry-run", *words])
    assert exit_status(tune.main) == 2
    assert capfd.readouterr().err.startswith(f"error: {said}")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--tracking-uri", "http://127.0.0.1:9"], "no MLflow server answers at 'http://127.0.0.1:9': "),
        (["--tracking-uri", "sqlite:////proc/x/mlflow.db"], "cannot write the tracking database '/proc/x/mlflow.db': "),
        (
            ["--tracking-uri", "nothing://x"],
            "--tracking-uri takes sqlite:///path, http(s)://server or a database, ",
        ),
        (["--cpus", "100000"], "a trial asks for 100000 CPU, but the largest node has "),
        (["--out", "memory://x"], "SQLite cannot be stored at 'memory://x'; give an MLflow server: "),
    ],
)
def test_what_passes_a_dry_run_starts(asked, capfd, monkeypatch, words, said):
    monkeypatch.setattr(sys, "argv", ["tune", "--space", "smoke", "--dry-run", *words])
    assert exit_status(tune.main) == 2
    assert capfd.readouterr().err.startswith(f"error: {said}")


def test_a_dry_run_makes_no_database(asked, tmp_path, monkeypatch):
    words = ["--out", str(tmp_path / "new"), "--tracking-uri", f"sqlite:///{tmp_path}/a/b/mlflow.db"]
    monkeypatch.setattr(sys, "argv", ["tune", "--space", "smoke", "--dry-run", *words])
    assert exit_status(tune.main) == 0
    assert not list(tmp_path.rglob("new/mlflow.db")) and not (tmp_path / "a").exists()


def test_a_message_is_cut_in_its_middle(capfd):
    def main():
        raise UserError(f"the start {'x' * 200_000} the end")

    assert exit_status(main) == 2
    said = capfd.readouterr().err
    assert said.startswith("error: the start xxx") and said.endswith("xxx the end\n") and len(said) < 1020


def test_a_number_is_read_as_it_was():
    for text, value in (("8/255", 8 / 255), ("1 / 3", 1 / 3), ("6/3", 2), ("1e3", 1000), ("1_000", 1000), ("+7", 7)):
        assert build({"optim.lr": text}).optim.lr == value
    assert build({"seed": str(2**62 + 1)}).seed == 2**62 + 1
    assert build({"epochs": "1e2"}).epochs == 100
