"""Wherever a setting takes a name, it takes a plug-in; what is wrong with that is one line."""

import dataclasses
import shutil

import plugin_files
import pytest
import torch

import methods
from harness import plugins
from harness.config import named_spaces
from harness.config.chosen_cells import choose
from harness.config.named_settings import REGISTRIES
from harness.config.trial import build
from harness.data import datasets
from harness.data.corruptions.registry import CORRUPTIONS, corrupt
from harness.errors import UserError
from harness.evaluation import suites
from harness.explain.maps import for_training
from harness.models import nets
from harness.randomness import PerImageRng
from harness.storage.workspace import Workspace
from harness.training.optim import lr_factor, optimiser
from harness.training.training_maps import map_sources
from harness.trials.run import run, trained_model

EVERYTHING = {
    "method": "pgd_sat",
    "model": "things.py:thin",
    "data": "things.py:squares",
    "maps.saliency": "cam+things.py:Doubled",
    "maps.teacher": "standard+alp.py:ALP",
    "attribution.maps": "gradient,things.py:Doubled",
    "measure.suites": "standard,attribution,things.py:confidence",
    "optim.name": "things.py:momentum",
    "optim.schedule": "things.py:halving",
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(plugin_files.write(tmp_path / "ideas"))
    return tmp_path / "ideas"


@pytest.mark.parametrize("path", REGISTRIES)
def test_every_name_may_be_a_plug_in_and_is_pinned(folder, path):
    assert EVERYTHING.keys() == REGISTRIES.keys()
    method = "alp.py:ALP" if path == "method" else "pgd_sat"
    settings = {"method": method, "measure.suites": "attribution"} | {path: EVERYTHING[path]}
    settings["method"] = method
    trial = build(settings)
    assert trial.plugins and all(plugins.is_pinned(name) for name in trial.plugins)
    again = build(trial.flat())
    assert again == trial and again.key == trial.key
    (folder / "things.py").write_text((folder / "things.py").read_text() + "\n# edited\n")
    (folder / "pairing.py").write_text((folder / "pairing.py").read_text() + "\n# edited\n")
    assert build(settings).key != trial.key and build(trial.flat()).key == trial.key
    shutil.move(folder, folder.parent / "elsewhere")
    assert build(trial.flat()) == trial


def test_each_is_what_it_is_of(folder):
    trial = build({**EVERYTHING, "method": "alp.py:ALP", "method.weight": "0.25"})
    assert trial.method.weight == 0.25 and methods.name(trial.method) == plugins.pinned("alp.py:ALP")
    assert not methods.reads_maps(trial.method)
    net = nets.build(trial.model, 1, 2)
    assert type(optimiser(trial.optim, net)) is torch.optim.SGD
    assert optimiser(trial.optim, net).param_groups[0]["momentum"] == 0.5
    assert lr_factor(trial.optim.schedule, 0.25) == 0.5
    trial = build({**EVERYTHING})
    assert [plugins.label(name) for pair in map_sources(trial.maps) for name in pair] == [
        "cam",
        "standard",
        "things.Doubled",
        "alp.ALP",
    ]
    x, y = torch.rand(2, 1, 8, 8), torch.tensor([0, 1])
    doubled = for_training(plugins.pinned("things.py:Doubled")).detached(net.eval(), x, y)
    torch.testing.assert_close(doubled, 2 * for_training("gradient").detached(net, x, y))
    assert "things.py:darker" in CORRUPTIONS and "things.py:darker" not in list(CORRUPTIONS)
    white = torch.ones(1, 1, 64, 64)
    assert corrupt("things.py:darker", white, 5, PerImageRng(torch.zeros(1).long())).mean() < 0.85


def test_a_trial_of_plug_ins_alone_runs_and_its_net_outlives_them(folder, tmp_path):
    workspace = Workspace(out=tmp_path / "runs", data=tmp_path / "data")
    names = ("model", "data", "optim.name", "optim.schedule")
    trial = build(
        {"method": "alp.py:ALP", "measure.suites": "standard,things.py:confidence"} | {n: EVERYTHING[n] for n in names}
    )
    result = run(trial, workspace, test=True)
    assert 0.5 <= result.score("test/confidence").mean <= 1 and result.score("test/robust").n == 20
    kept = {path.name for path in (workspace.out / "plugins").iterdir()}
    assert kept == {name.partition("@")[2] for name in trial.plugins} and len(kept) == 2
    assert not [path for path in (tmp_path / "ideas").rglob("*") if path.suffix == ".pyc"]
    shutil.rmtree(folder)
    assert trained_model(build(trial.flat()), workspace)[1].score("test/confidence") == result.score("test/confidence")


def test_the_names_of_a_study_are_those_beside_it_and_stay_as_they_were(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    space = named_spaces.space("ideas/study.py")
    assert (
        named_spaces.title("ideas/study.py") == "study"
        and named_spaces.summary("ideas/study.py") == "Does pairing help?"
    )
    control, alp = space.cells({})
    assert alp.trial.plugins == [plugins.pinned(f"ideas/{name}") for name in ("alp.py:ALP", "things.py:squares")]
    assert {*alp.plugins()} == {*alp.trial.plugins, plugins.pinned("ideas/things.py:thin")}
    assert {*control.plugins()} == {*alp.plugins()} - {plugins.pinned("ideas/alp.py:ALP")}
    assert plugins.source(named_spaces.pinned("ideas/study.py")).files.keys() == plugin_files.FILES.keys()
    before = alp.proposed({"method.weight": 0.25, "model": "tiny"})
    (folder / "pairing.py").write_text("def squared(a, b):\n    return (a - b).abs().mean()\n")
    assert alp.proposed({"method.weight": 0.25, "model": "tiny"}) == before
    assert space.digest(named_spaces.space("ideas/study.py").cells({})[1]) != space.digest(alp)


def test_a_method_of_a_file_is_a_cell_named_without_its_digest(folder):
    chosen = choose(named_spaces.space("pgd"), ["pgd"], {"method": "alp.py:ALP", "method.weight": "0.1"})
    (cell,) = chosen.cells
    assert cell.name == "alp.ALP, method.weight=0.1" and cell.trial.method.weight == 0.1
    assert plugins.pinned("alp.py:ALP") in chosen.note


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"method": "alp.py:APL"}, ["method 'alp.py:APL", "did you mean 'ALP'?"]),
        ({"method": "alp.py"}, ["method 'alp.py' is a file; name the thing in it, such as alp.py:NAME"]),
        ({"method": "apl.py:ALP"}, ["method 'apl.py:ALP': there is no file 'apl.py'; did you mean 'alp.py'?"]),
        ({"method": "pairing.py:squared"}, ["method 'pairing.py:squared", "a method is a frozen dataclass with loss"]),
        ({"method": "alp.py:ALP", "method.wieght": 1}, ["ALP has no 'wieght'; did you mean 'weight'?"]),
        ({"method": "alp.py:ALP", "method.weight": -1}, ["method.weight must be at least 0"]),
        ({"data": "things.py:number"}, ["data 'things.py:number", "a data set is a function"]),
        ({"optim.name": "things.py:number"}, ["optimiser 'things.py:number", "torch.optim.Optimizer"]),
        ({"optim.schedule": "cosin"}, ["schedule 'cosin' is not known; did you mean 'cosine'?"]),
        ({"measure.suites": "no_such_package:suite"}, ["suite 'no_such_package:suite'", "is the package installed"]),
        ({"maps.saliency": "cam+thing.py:Doubled", "method": "sat"}, ["saliency 'thing.py:Doubled'", "'things.py'"]),
    ],
)
def test_what_is_wrong_with_a_plug_in_is_one_line(folder, settings, words):
    with pytest.raises(UserError) as mistake:
        build(settings)
    assert "\n" not in str(mistake.value) and all(word in str(mistake.value) for word in words), mistake.value


@pytest.mark.parametrize(
    "text, said",
    [
        ("class M:\n    def loss(self): pass", "a method is a frozen dataclass with loss"),
        ("@dataclass\nclass M:\n    def loss(self): pass", "its dataclass must be frozen"),
        (
            "@dataclass(frozen=True)\nclass M:\n    eps: float\n    def loss(self): pass",
            "its setting 'eps' needs a default",
        ),
    ],
)
def test_a_method_that_is_none(folder, text, said):
    (folder / "own.py").write_text(f"from dataclasses import dataclass\n{text}\n")
    with pytest.raises(UserError, match=said):
        build({"method": "own.py:M"})


def test_a_net_and_a_data_set_that_fail_say_so(folder, tmp_path):
    (folder / "own.py").write_text("def f(*a):\n    return 3\ndef g(*a):\n    raise KeyError('k')\n")
    for name, said in (("own.py:f", "must give a Net of harness.models.nets, not int"), ("own.py:g", "KeyError: 'k'")):
        with pytest.raises(UserError, match=said):
            nets.build(plugins.pinned(name), 1, 2)
    workspace = Workspace(out=tmp_path / "runs", data=tmp_path / "data")
    for name, said in (("own.py:f", "must give a harness.data.readers.Raw, not int"), ("own.py:g", "KeyError: 'k'")):
        with pytest.raises(UserError, match=said):
            datasets.load(build({"data": name}).data, workspace)


def test_a_space_with_the_name_of_one_of_ours_is_refused(folder):
    (folder / "sat.py").write_text((folder / "study.py").read_text())
    with pytest.raises(UserError, match=r"^space 'sat\.py' would be taken for our space 'sat'; rename its file$"):
        named_spaces.space("sat.py")


def test_a_suite_of_ones_own_has_its_place_in_the_settings(folder):
    trial = build({"measure.suites": ("standard", "things.py:confidence")})
    known = suites.known(trial.measure.suites)
    assert [suite.name for suite in known] == ["standard", "confidence"]
    assert dataclasses.is_dataclass(known[1])
