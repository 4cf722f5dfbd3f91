"""Studies in TOML: the same as in Python, and the line of what is wrong."""

import importlib

import pytest

from harness.config import search_domains, study_file
from harness.config.space import Space
from harness.config.toml_file import TomlFile, as_text
from harness.errors import UserError

SAT = """
controls = ["standard", "noise"]

[base]
method = "sat"

[search]
"method.eps" = {times = [0.25, 0.5, 1, 2]}
"method.alpha10" = {uniform = [0, 1]}
optim.lr = {within = 3}

[compare]
standard = {method = "standard"}
noise = {method = "noise"}
"""


def read(tmp_path, text, name="mine.toml"):
    (tmp_path / name).write_text(text)
    return study_file.read(tmp_path / name)


def digests(space):
    return [space.digest(cell) for cell in space.cells({})]


def test_a_study_in_toml_is_the_one_in_python(tmp_path):
    python = importlib.import_module("search_spaces.sat").SPACE
    cells = "\n".join(as_text({"compare": {name: own}}) for name, own in list(python.compare.items())[2:])
    study = read(tmp_path, SAT + cells)
    assert study.name == "mine" and study.space.compare == python.compare
    assert digests(study.space) == digests(python)
    assert (study.space.trials, study.space.seeds, study.space.controls) == (6, 3, python.controls)


@pytest.mark.parametrize(
    ("text", "domain"),
    [
        ("{uniform = [0.001, 1]}", search_domains.uniform(0.001, 1)),
        ("{log = [1e-4, 1e-1]}", search_domains.log(1e-4, 1e-1)),
        ("{choice = [0.01, 0.05]}", search_domains.choice(0.01, 0.05)),
        ("{ordered = [0.01, 0.05, 0.1]}", search_domains.ordered(0.01, 0.05, 0.1)),
        ("{times = [0.5, 1]}", search_domains.times(0.5, 1)),
        ("{within = 3}", search_domains.within(3)),
    ],
)
def test_every_domain_is_that_of_python(tmp_path, text, domain):
    base = {"optim.lr": 0.05}
    python = Space(base=base, compare={"a": {"method": "pgd"}}, search={"optim.lr": domain}, goal="val/clean")
    study = read(
        tmp_path,
        f'goal = "val/clean"\n[base]\noptim.lr = 0.05\n[search]\n"optim.lr" = {text}\n[compare.a]\nmethod = "pgd"\n',
    )
    assert digests(study.space) == digests(python)


def test_whole_numbers_have_domains_of_their_own(tmp_path):
    python = Space(
        base={}, compare={"a": {"method": "pgd"}}, search={"method.steps": search_domains.integer(1, 100, log=True)}
    )
    study = read(
        tmp_path, '[search]\n"method.steps" = {integer = [1, 100], log = true}\n[compare]\na = {method = "pgd"}\n'
    )
    assert digests(study.space) == digests(python)


def test_a_written_study_is_read_as_it_was(tmp_path):
    study = read(tmp_path, SAT.replace("[base]", '[floor]\n"val/clean" = 0.5\n[base]\nepochs = 3\n') + "sat = {}")
    again = read(tmp_path, as_text(study.table), "again.toml")
    assert (again.name, again.table, digests(again.space)) == ("mine", study.table, digests(study.space))


WRONG = {
    "controls = 3": (2, "controls takes a name or a list of names, not '3'"),
    'controls = ["nose"]': (2, "control 'nose' is no cell of the space"),
    "trails = 3": (2, "there is no key 'trails' here; did you mean 'trials'?"),
    "trials = 0": (2, "trials takes a whole number from 1, not '0'"),
    'goal = "robust"': (2, "a goal is a validation score, val/..., not 'robust'"),
    'name = "a/b"': (2, "the name of a study has letters, digits, dots, - and _ only, not 'a/b'"),
    "base.epochs = 1979-05-27": (2, "epochs takes a number, a text, true or false, or several, not '1979-05-27'"),
    "search.optim.lr = {choise = [1]}": (2, "did you mean 'choice'?"),
    "search.optim.lr = {uniform = [1]}": (2, "optim.lr: uniform takes 2 numbers, not 1"),
    "search.optim.lr = {uniform = [2, 1]}": (2, "a domain goes from low to high"),
    "search.optim.lr = {within = 3, times = [1]}": (2, "optim.lr is searched in one domain, not in times and within"),
    'search.optim.lr = {within = "3"}': (2, "lr takes numbers, not '3'"),
    "search.optim.lr = 0.1": (2, "optim.lr is searched in a domain such as {times = [0.5, 1, 2]}: not '0.1'"),
    'search."optim.lrr" = {uniform = [0, 1]}': (2, "no cell of the space has 'optim.lrr'"),
    'search."optim.lr" = {uniform = [\n1e-5,\n 1e-4]}': (2, "the published 0.05 is outside"),
    "base.epochs = 0": (2, "epochs must be"),
    "[compare.c]\nmethod = 'nosie'": (3, "method 'nosie' is not known; did you mean 'noise'?"),
    "[floor]\n\n'clean' = 0.5": (4, "a goal is a validation score"),
    "[floor]\n'val/clean' = nan": (3, "the floor of val/clean is a finite number, not nan"),
    "[compare.'']\nmethod = 'noise'": (2, "a cell has a name; one is empty"),
    "search.optim.lr = {within = -3}": (2, "optim.lr: within(factor) takes a number from 1, such as 3, not -3"),
    "search.optim.lr = {ordered = [0.05, 'x']}": (2, "search optim.lr: optim.lr takes a number"),
    "[base]\nmethod.eps = 0.1\n'method.eps' = 0.2": (4, "method.eps is given twice"),
    "[search]\noptim.lr = {within = 3}\n'optim.lr' = {within = 2}": (4, "optim.lr is given twice"),
    "= 3": (2, "invalid statement"),
    "name = 'a'\nname = 'b'": (3, "cannot overwrite a value"),
}


@pytest.mark.parametrize("text", WRONG)
def test_what_is_wrong_has_its_line(tmp_path, text):
    line, said = WRONG[text]
    cells = '\n[compare]\na = {method = "pgd"}\nb = {method = "standard"}\n'
    with pytest.raises(UserError) as wrong:
        read(tmp_path, f"# first\n{text}{cells}")
    message = str(wrong.value)
    assert message.startswith(f"{tmp_path / 'mine.toml'}, line {line}: "), message
    assert said in message and "\n" not in message


def test_a_study_compares_something(tmp_path):
    with pytest.raises(UserError, match="line 1: a study compares something"):
        read(tmp_path, "\n\n[base]\nepochs = 3\n")


LINES = '''# a comment
top = 1

[a."b c"]  # the header
one.two = [
    1,
    2,
]
three = """
[not.a.table]
"""
four = {five = 5, six = {seven = 7}}
[[list]]
x = 1
'''


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        (("top",), 2),
        (("a",), 4),
        (("a", "b c"), 4),
        (("a", "b c", "one"), 5),
        (("a", "b c", "one", "two"), 5),
        (("a", "b c", "three"), 9),
        (("a", "b c", "four", "six", "seven"), 12),
        (("list",), 13),
        (("absent",), 1),
    ],
)
def test_the_line_of_a_key(tmp_path, keys, line):
    (tmp_path / "lines.toml").write_text(LINES)
    assert TomlFile.read(tmp_path / "lines.toml").line(keys) == line


def test_the_text_of_a_table_is_read_as_it_was(tmp_path):
    data = {
        "text": 'a "quoted" \\ 😀\x7f\t\n',
        "numbers": [1, 2.5, 1e-05, -3],
        "on": True,
        "a b": {"c": 1, "d": {"e": ["x"]}, "empty": {}},
    }
    (tmp_path / "t.toml").write_text(as_text(data), encoding="utf-8")
    assert TomlFile.read(tmp_path / "t.toml").data == data
