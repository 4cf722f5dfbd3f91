"""The command that measures a net: a trial's, or somebody else's."""

import dataclasses
import json
import os
import re
import shutil

import numpy as np
import pytest
import torch
from oracles import FirstOrderSquare, Function, mask
from PIL import Image
from torch import nn

from harness import evaluate
from harness.data import datasets
from harness.data.settings import DataSource
from harness.errors import UserError
from harness.evaluation import evaluator, suites
from harness.evaluation.external.loading import load_external
from harness.evaluation.measurements import pgd
from harness.models.nets import NETS, Net, build
from harness.trials import evaluate_stored, test_evaluations
from harness.trials import run as trial_run
from harness.trials.discarded_weights import discard


def evaluated(monkeypatch, workspace, *words):
    """The exit status of `python -m harness.evaluate` with these words."""
    from harness.errors import exit_status

    argv = ["evaluate", *words, "--out", str(workspace.out), "--data-root", str(workspace.data), "--device", "cpu"]
    monkeypatch.setattr("sys.argv", argv)
    return exit_status(evaluate.main)


FEW = [f"attribution.{setting}" for setting in ("images=5", "steps=2", "points=3", "restarts=1")]
FEW = [word for setting in FEW for word in ("--set", setting)]


def test_the_command_measures_a_recorded_trial_once(monkeypatch, capsys, workspace, quick):
    run = quick(method="standard", data__limit=300, epochs=4)
    trial_run.run(run, workspace)
    words = ("--trial", run.key, "--suite", "attribution,attribution-legacy", *FEW)
    assert evaluated(monkeypatch, workspace, *words) == 0
    said = capsys.readouterr().out
    for score in ("strong-in", "strong-k", "random-in", "art-in", "rar-lens_recall", "bound_slack", "completeness"):
        assert re.search(rf"^val/{score} .* n = 5", said, re.M), score
    (file,) = workspace.trial(run.key).glob("evaluation-val-*.json")
    stamp = file.stat().st_mtime_ns
    stored = json.loads(file.read_text())
    assert stored["settings"]["attribution.images"] == 5 and stored["checksums"]
    with np.load(file.with_suffix(".npz")) as images:
        assert (~np.isnan(images["val/strong-in"])).sum() == 5
    assert evaluated(monkeypatch, workspace, *words) == 0
    assert capsys.readouterr().out == said and file.stat().st_mtime_ns == stamp
    assert trial_run.run(run, workspace).test_evaluations == 0


def test_discarded_weights_are_made_again_only_when_asked_for(monkeypatch, capsys, workspace, quick):
    run, other = (quick(method="standard", epochs=1, seed=seed) for seed in (0, 1))
    for trial in (run, other):
        result = trial_run.run(trial, workspace)
        discard(trial.key, workspace)
    assert evaluated(monkeypatch, workspace, "--trial", run.key) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: trial {run.key} has a result and no weights") and error.count("\n") == 1
    assert not list(workspace.out.glob("trials/*/*.pt"))
    assert evaluated(monkeypatch, workspace, "--trial", run.key, "--other", other.key, "--retrain") == 0
    assert len(list(workspace.out.glob("trials/*/weights.pt"))) == 2
    assert trial_run.run(other, workspace).scores == [replaced(score) for score in result.scores]
    discard(run.key, workspace)  # what was evaluated stays
    assert evaluated(monkeypatch, workspace, "--trial", run.key, "--quiet") == 0


def replaced(score):
    return dataclasses.replace(score, per_example=None)


def test_a_measurement_on_test_is_a_touch(monkeypatch, capsys, workspace, quick):
    run = quick(method="standard")
    trial_run.run(run, workspace)
    for _ in range(2):
        assert evaluated(monkeypatch, workspace, "--trial", run.key, "--test") == 0
    assert "test/robust" in capsys.readouterr().out
    assert trial_run.run(run, workspace).test_evaluations == 1


@pytest.mark.parametrize("remote", [False, True], ids=["folder", "uri"])
def test_an_evaluation_beside_the_test_of_a_sweep_is_counted_too(tmp_path, workspace, quick, monkeypatch, remote):
    """Each begins while the other measures; at a URI they work on copies of their own."""
    run = quick(method="standard")
    nodes = [workspace, workspace]
    if remote:
        uri = f"file://{tmp_path}/store"
        nodes = [dataclasses.replace(workspace, out=tmp_path / name, remote=uri).writable() for name in "ab"]
    trial_run.run(run, nodes[0])
    measure, within = trial_run.measure, []

    def measured(*given, **how):
        """In the sweep's measurement, an evaluation of this net from beginning to end."""
        if not within:
            within.append(evaluate_stored.trial_target(run, run, nodes[1]))
            done.append(evaluate_stored.evaluate(within[0], run, nodes[1], split="test"))
        return measure(*given, **how)

    done = []
    monkeypatch.setattr(trial_run, "measure", measured)
    tested = trial_run.run(run, nodes[0], test=True)
    assert len(done) == 1 and done[0].scores
    again = trial_run.run(run, nodes[1], test=True)
    assert again.test_evaluations == 2 and [s.name for s in again.of("test")] == [s.name for s in tested.of("test")]
    if not remote:
        assert tested.test_evaluations == 2
        earlier = json.loads((workspace.trial(run.key) / "result.json").read_text())
        assert earlier["touches"] == 2  # what an earlier version wrote, and had no files for
        shutil.rmtree(workspace.trial(run.key) / test_evaluations.FOLDER)
        assert trial_run.run(run, workspace).test_evaluations == 2
        for number in (3, 4):
            assert test_evaluations.record(workspace.trial(run.key), 2) == number


def test_what_a_suite_has_gained_since_is_all_that_is_measured(monkeypatch, capsys, workspace, quick):
    """Of a stored evaluation; which is one more test evaluation."""
    run = quick(method="standard")
    trial_run.run(run, workspace)
    words = ("--trial", run.key, "--test", "--suite", "standard")
    assert evaluated(monkeypatch, workspace, *words) == 0
    before = capsys.readouterr().out.splitlines()
    standard, done, measure = suites.SUITES["standard"], [], evaluator._Evaluation.measure
    gained = {"pgd3-16": pgd(16 / 255, 8 / 255, 3)}
    more = dataclasses.replace(standard, build=lambda of: {**standard(of), **gained})
    monkeypatch.setitem(suites.SUITES, "standard", more)
    monkeypatch.setattr(
        evaluator._Evaluation, "measure", lambda self, key, *of: done.append(key) or measure(self, key, *of)
    )
    for _ in range(2):
        assert evaluated(monkeypatch, workspace, *words) == 0
    after = capsys.readouterr().out.splitlines()
    assert done == ["pgd3-16"] and sum("test/pgd3-16" in line for line in after) == 2
    assert {line for line in before if "±" in line} < set(after)
    assert trial_run.run(run, workspace).test_evaluations == 2
    (file,) = workspace.trial(run.key).glob("evaluation-test-*.json")
    with np.load(file.with_suffix(".npz")) as images:
        assert set(images.files) == {score["name"] for score in json.loads(file.read_text())["scores"]}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--trial", "KEY", "--suite", "atribution"), "did you mean 'attribution'?"),
        (("--trial", "fff"), "trial 'fff' is not known; "),
        (("--trial", "KEY", "--set", "epochs=3"), "epochs is fixed by --trial"),
        (("--trial", "KEY", "--suite", "attribution", "--set", "attribution.k=65"), "at most the 8 x 8 pixels"),
        (("--trial", "KEY", "--suite", "attribution", "--set", "attribution.eps=-1/255"), "must be at least 0"),
        (("--trial", "KEY", "--suite", "attribution", "--set", "attribution.maps=gradcampp"), "'gradcam_pp'?"),
        (("--trial", "KEY", "--suite", "attribution", "--set", "attribution.beta=0"), "must be positive"),
    ],
)
def test_bad_input_is_one_line(monkeypatch, capsys, shared_workspace, quick, words, said):
    run = quick(method="standard", epochs=1)
    trial_run.run(run, shared_workspace)
    words = [run.key if word == "KEY" else word for word in words]
    assert evaluated(monkeypatch, shared_workspace, *words) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and said in error


def test_what_its_data_does_not_allow_is_refused_before_a_trial_is_trained(workspace, quick):
    run = quick(method="standard", measure__suites="attribution", attribution__k=100)
    with pytest.raises(UserError, match="at most the 8 x 8 pixels of a map, not 100"):
        trial_run.run(run, workspace)
    assert not (workspace.trial(run.key) / "weights.pt").exists()


def test_a_net_whose_attributions_cannot_be_attacked_is_refused_before_it_is_trained(monkeypatch, workspace, quick):
    def masked(channels, classes):
        return Net(nn.Sequential(nn.Conv2d(channels, 16, 3), Function(mask)), 16, classes, channels)

    monkeypatch.setitem(NETS, "masked", masked)
    run = quick(method="standard", model="masked", measure__suites="attribution", attribution__k=5)
    with pytest.raises(UserError, match=r"^the second derivative of Net explains .* would be blind"):
        trial_run.run(run, workspace)
    assert not (workspace.trial(run.key) / "weights.pt").exists()


class Sums(nn.Module):
    """A net of nobody here: its logits are sums of pixels."""

    def __init__(self, classes=10):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(64, classes))

    def forward(self, x):
        if x.shape[1:] != (1, 8, 8):
            raise ValueError(f"takes 1x8x8, not {tuple(x.shape[1:])}")
        return x.flatten(1) @ self.w


def fixed():
    net = Sums()
    torch.manual_seed(3)
    nn.init.normal_(net.w)
    return net


def seven():
    return Sums(7)


def three():
    return 3


def broken():
    raise RuntimeError("no weights today")


def detached():
    class Detached(Sums):
        def forward(self, x):
            return super().forward(x).detach()

    return Detached()


def lost():
    net = fixed()
    nn.init.constant_(net.w, torch.nan)
    return net


def leaves():
    raise SystemExit(3)


def statistics():
    """A net that normalises by the images of its batch, of which one is too few."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.BatchNorm1d(10, track_running_stats=False))


def for_two():
    """A net that was frozen for batches of two images."""

    class ForTwo(Sums):
        def forward(self, x):
            return super().forward(x.reshape(2, 1, 8, 8))

    return ForTwo()


def for_some():
    """A net that fails on a number of images that is not tried before."""

    class ForSome(Sums):
        def forward(self, x):
            if len(x) == 7:
                raise RuntimeError("expected other images\nin a graph")
            return super().forward(x)

    return ForSome()


def exported():
    """A program of torch.export, which refuses `eval()`."""
    some = torch.export.Dim("images", min=1, max=4096)
    return torch.export.export(fixed(), (torch.rand(2, 1, 8, 8),), dynamic_shapes=({0: some},)).module()


class Transformer(nn.Module):
    """Attention by torch's fused kernel, whose gradient has no derivative."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.patches = nn.Conv2d(1, 16, 4, 4)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, norm_first=True)
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        return self.head(self.layer(self.patches(x).flatten(2).transpose(1, 2)).mean(1))


class Masked(nn.Module):
    """A net whose ReLUs are masks."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Conv2d(1, 16, 3), nn.Conv2d(16, 10, 6)

    def forward(self, x):
        return self.last(mask(self.first(x))).flatten(1)


class FirstOrder(Sums):
    """A net with a gradient that cannot be differentiated."""

    def forward(self, x):
        return super().forward(FirstOrderSquare.apply(x))


ME = "tests.commands.test_evaluate"


@pytest.fixture
def here(monkeypatch, request):
    monkeypatch.syspath_prepend(str(request.config.rootpath))


def test_a_strangers_net_is_measured_and_kept(monkeypatch, capsys, workspace, here):
    words = ("--model", f"{ME}:fixed", "--test", "--images", "50", "--set", "measure.eps=8/255")
    assert evaluated(monkeypatch, workspace, *words[:2], "--images", "40", "--set", "data.limit=60") == 0
    assert "n = 40" in capsys.readouterr().out  # other images: another folder
    (elsewhere,) = (workspace.out / "evaluations").iterdir()
    assert evaluated(monkeypatch, workspace, *words) == 0
    said = capsys.readouterr().out
    net = fixed()
    data = datasets.load(DataSource(), workspace)
    right = (net(data.test.x[:50].float() / 255).argmax(1) == data.test.y[:50]).double().mean()
    assert re.search(rf"test/clean +{100 * float(right):.2f} .* n = 50", said)
    (folder,) = (f for f in (workspace.out / "evaluations").iterdir() if f != elsewhere)
    (file,) = folder.glob("evaluation-test-*.json")
    assert json.loads(file.read_text())["model"] == f"{ME}:fixed"
    assert [p.name for p in folder.iterdir() if p.is_dir()] == [test_evaluations.FOLDER]  # the ledger is gone
    assert evaluated(monkeypatch, workspace, *words) == 0 and capsys.readouterr().out == said
    assert test_evaluations.count(folder) == 1


def test_an_exported_program_is_measured_as_the_net_it_was(monkeypatch, capsys, workspace, here):
    said = []
    for name in ("fixed", "exported"):
        words = ("--model", f"{ME}:{name}", "--test", "--images", "33", "--set", "measure.eps=8/255")
        assert evaluated(monkeypatch, workspace, *words) == 0
        said.append([line for line in capsys.readouterr().out.splitlines() if "±" in line])
    assert said[0] == said[1] and len(said[0]) == 4


@pytest.mark.parametrize(
    ("name", "more", "said"),
    [
        ("Masked", (), "the second derivative of Masked explains "),
        ("FirstOrder", (), "the gradient of FirstOrder cannot be differentiated: no derivative of the derivative;"),
        ("fixed", ("--set", "attribution.maps=cam"), "attribution.maps=cam needs the last feature layer of the net"),
    ],
)
def test_attributions_that_cannot_be_attacked_are_refused_before_anything_is_measured(
    name, more, said, monkeypatch, capsys, workspace, here
):
    monkeypatch.setattr(evaluator, "evaluate", lambda *args, **settings: pytest.fail("measured"))
    words = ("--model", f"{ME}:{name}", "--suite", "standard,attribution", "--test", "--quiet", *more)
    assert evaluated(monkeypatch, workspace, *words) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"error: {said}") and captured.err.count("\n") == 1 and not captured.out
    assert not [*workspace.out.rglob(test_evaluations.FOLDER), *workspace.out.rglob("evaluation-*")]


def test_attributions_of_a_net_with_fused_attention_are_attacked(monkeypatch, capsys, workspace, here):
    words = ("--model", f"{ME}:Transformer", "--suite", "attribution", "--images", "40", "--set", "attribution.k=8")
    assert evaluated(monkeypatch, workspace, *words, *FEW) == 0
    assert re.search(r"^val/strong-in .* n = [1-5]", capsys.readouterr().out, re.M)


def test_a_named_feature_layer_gives_maps_and_boxes(monkeypatch, capsys, workspace, here):
    words = ("--model", f"{ME}:windowed", "--data", "shapes", "--set", "data.limit=40", "--images", "6")
    said = []
    for more in ((), ("--features", "0.2"), ("--features", "0.2")):
        assert evaluated(monkeypatch, workspace, *words, "--suite", "localization", *more) == 0
        said.append(capsys.readouterr().out)
    assert "gtknown-grad" in said[0] and "gtknown-cam" not in said[0]
    assert re.search(r"^val/gtknown-cam .* n = 6$", said[1], re.M) and said[1] == said[2]
    named = [json.loads(f.read_text()).get("features") for f in workspace.out.rglob("evaluation-*.json")]
    assert sorted(named, key=str) == ["0.2", None]


def windowed(classes):
    """Feature maps that are flattened, not averaged, of images of 32 x 32."""
    torch.manual_seed(0)
    features = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.MaxPool2d(3))
    return nn.Sequential(features, nn.Flatten(), nn.Linear(200, classes))


def test_the_weights_of_a_trial_measure_the_same_by_file(monkeypatch, capsys, shared_workspace, quick):
    run = quick(method="standard", epochs=1)
    result = trial_run.run(run, shared_workspace)
    weights = shared_workspace.trial(run.key) / "weights.pt"
    asked = ("--set", "measure.eps=16/255", "--set", "measure.steps=2", "--set", "data.limit=96")
    assert evaluated(monkeypatch, shared_workspace, "--model", "small", "--weights", str(weights), *asked) == 0
    said = capsys.readouterr().out
    for score in result.scores:
        assert re.search(rf"^{score.name} +{100 * score.mean:.2f} ", said, re.M), score


def test_weights_are_found_within_a_checkpoint(tmp_path, workspace):
    data = datasets.load(DataSource(), workspace)
    state = build("small", 1, 10).state_dict()
    parallel = {f"module.{name}": value for name, value in state.items()}
    for saved in ({"epoch": 3, "state_dict": parallel}, {"model": state}):
        torch.save(saved, tmp_path / "checkpoint.pt")
        found = load_external("small", tmp_path / "checkpoint.pt", data).state_dict()
        assert all(torch.equal(found[name], value) for name, value in state.items())


def _weights(tmp_path, kind):
    path = tmp_path / "weights.pt"
    if kind == "page":
        path.write_text("<!DOCTYPE html><html>404</html>")
    elif kind == "garbled":
        path.write_bytes(b"\x80\x02" + bytes(range(256)) * 4)
    elif kind == "other":
        torch.save(build("resnet10", 1, 10).state_dict(), path)
    elif kind == "classes":
        torch.save(build("small", 1, 7).state_dict(), path)
    elif kind == "list":
        torch.save([1, 2], path)
    return str(path)


def test_what_was_interpreted_is_one_line_that_quiet_leaves_out(monkeypatch, capsys, tmp_path, workspace, here):
    torch.save({"n_averaged": torch.ones(1), "module.w": fixed().w.detach().half()}, tmp_path / "w.pt")
    words = ("--model", f"{ME}:with_more", "--weights", str(tmp_path / "w.pt"), "--images", "20")
    said = []
    for more in ((), ("--quiet",)):
        assert evaluated(monkeypatch, workspace, *words, "--set", "measure.steps=1", *more) == 0
        said.append(capsys.readouterr().out.splitlines())
    (weights,) = (line for line in said[0] if line.startswith("weights of "))
    assert weights.endswith("prefix 'module.' removed; 1 counters left out (n_averaged); float16 made float32")
    (logits,) = (line for line in said[0] if "logits are taken" in line)
    assert {weights, logits}.isdisjoint(said[1]) and said[1] == said[0][-len(said[1]) :]


def with_more(num_labels):
    """A net that returns its logits beside something else."""

    class Both(Sums):
        def forward(self, x):
            return {"logits": super().forward(x), "x": x}

    return Both(num_labels)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--model", "resnet81"), "model 'resnet81' is not known; did you mean 'resnet"),
        (("--model", "no_such_module:net"), "cannot import 'no_such_module': ModuleNotFoundError"),
        (("--model", f"{ME}:fixd"), "has no callable 'fixd'; did you mean 'fixed'?"),
        (("--model", f"{ME}:broken"), "the call failed: RuntimeError: no weights today"),
        (("--model", f"{ME}:three"), "gave a int, not a torch.nn.Module"),
        (("--model", f"{ME}:seven"), "has 7 classes, the data 10"),
        (("--model", f"{ME}:fixed", "--data", "shapes"), "does not take images of 3x32x32: ValueError: takes 1x8x8"),
        (("--model", "small", "--weights", "PAGE"), "is a web page, not a checkpoint"),
        (("--model", "small", "--weights", "GARBLED"), "is not a checkpoint"),
        (("--model", "small", "--weights", "LIST"), "holds no weights"),
        (("--model", "small", "--weights", "OTHER"), "holds the weights of another net: it lacks 'features."),
        (("--model", "small", "--weights", "CLASSES"), "'head.bias' is (7,), the net's is (10,)"),
        (("--model", "small", "--weights", "/nowhere/x.pt"), "cannot read '/nowhere/x.pt'"),
        (("--weights", "x.pt"), "--weights needs --model"),
        (("--model", f"{ME}:detached"), "has no gradient to attack it by: RuntimeError"),
        (("--model", f"{ME}:lost"), "gives logits that are not finite"),
        (("--model", f"{ME}:leaves"), "the call failed: SystemExit: 3"),
        (("--model", ""), "model '' is not known"),
        (("--model", "small", "--cell", "sat"), "--cell needs --space, but --model names what is measured"),
        (("--model", "small", "--set", "epochs=3"), "epochs is fixed by --model"),
        (("--model", "small", "--space", "sat"), "--space and --model each name what is measured"),
        (("--model", "small", "--images", "-3"), "--images must be at least 0"),
        (("--features", "layer4"), "--features needs --model"),
        (("--model", "small", "--weights-key", "ema"), "--weights-key needs --weights: it names a part of that file"),
        (("--model", "small", "--weights", "OTHER", "--weights-key", "ema"), "--weights-key 'ema' is not in "),
        (("--model", "timm:resnet18"), "needs --weights FILE: published weights are not fetched"),
        (("--model", "hf:someone/net"), "is no folder here, and nothing is fetched; download it first"),
        (
            ("--model", f"{ME}:for_some", "--images", "7", "--quiet"),
            "fails on 7 images: RuntimeError: expected other images",
        ),
        (("--model", "small", "--features", "featres"), "--features 'featres' is not known; did you mean 'features'?"),
        (("--model", f"{ME}:statistics"), "takes 2 images, but not 1 image; the harness passes any number: ValueError"),
        (("--model", f"{ME}:for_two"), "takes 2 images, but not 1 image; the harness passes any number: RuntimeError"),
    ],
)
def test_bad_nets_and_weights_are_one_line(monkeypatch, capsys, tmp_path, shared_workspace, here, words, said):
    words = [_weights(tmp_path, word.lower()) if word.isupper() else word for word in words]
    assert evaluated(monkeypatch, shared_workspace, *words) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and said in error, error


def test_an_evaluation_goes_to_mlflow_once_with_what_speaks_against_it(
    monkeypatch, capsys, workspace, here, empty_store
):
    import mlflow

    shutil.copy(empty_store, workspace.out / "mlflow.db")

    uri = f"sqlite:///{workspace.out / 'mlflow.db'}"
    words = ("--model", f"{ME}:fixed", "--images", "40", "--set", "measure.eps=8/255", "--samples", "2")
    for _ in range(2):
        assert evaluated(monkeypatch, workspace, *words, "--tracking-uri", uri) == 0
    client = mlflow.MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("evaluations")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED" and run.data.params["model"] == f"{ME}:fixed"
    assert run.data.metrics["val_n/images"] == 40 and "val/pgd10-8" in run.data.metrics
    assert run.data.tags["harness.check.reach"].startswith("passed: ")
    names = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert "samples.png" in names and any(name.endswith("-attacked.npz") for name in names)
    said = capsys.readouterr().out
    (page,) = re.findall(r"samples: (.*)", said)[-1:]
    with Image.open(page) as image:
        assert image.width < image.height  # two columns, ten rows


def test_images_that_transfer_are_looked_for_with_another_seeds_net(monkeypatch, capsys, shared_workspace, quick):
    one, other = (quick(method="standard", epochs=3, seed=seed) for seed in (0, 1))
    for run in (one, other):
        trial_run.run(run, shared_workspace)
    assert evaluated(monkeypatch, shared_workspace, "--trial", one.key, "--other", other.key) == 0
    (file,) = (f for f in shared_workspace.trial(one.key).glob("evaluation-*.json") if '"other": "' in f.read_text())
    (check,) = (c for c in json.loads(file.read_text())["checks"] if c["name"] == "transfer")
    assert check["passed"] is not None and "other" in check["numbers"]
    capsys.readouterr()
    assert evaluated(monkeypatch, shared_workspace, "--trial", one.key, "--other", one.key) == 2
    assert "is the trial that is measured" in capsys.readouterr().err


def test_another_net_under_the_same_name_is_measured_anew(monkeypatch, capsys, workspace, here):
    words = ("--model", f"{ME}:movable", "--images", "30", "--set", "measure.eps=8/255")
    said = []
    for moved in ("0", "0", "1"):
        monkeypatch.setenv("MOVED", moved)
        assert evaluated(monkeypatch, workspace, *words) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] != said[2]
    assert len(list((workspace.out / "evaluations").iterdir())) == 2


def movable():
    net = fixed()
    net.w.data += float(os.environ["MOVED"]) * torch.randn_like(net.w)
    return net


def test_a_net_of_other_data_is_no_other_seed(monkeypatch, capsys, shared_workspace, quick):
    one, other = quick(method="standard"), quick(method="standard", data="shapes")
    for run in (one, other):
        trial_run.run(run, shared_workspace)
    assert evaluated(monkeypatch, shared_workspace, "--trial", one.key, "--other", other.key) == 2
    assert "was trained on other data, 'shapes'" in capsys.readouterr().err


def test_published_files_that_do_not_fit_are_one_line(monkeypatch, capsys, workspace, here):
    from tests.data.test_readers import folder

    folder(workspace.data, "cifar10")
    corrupted = workspace.data / "CIFAR-10-C"
    corrupted.mkdir()
    words = ("--model", f"{ME}:shallow", "--data", "cifar10", "--set", "data.size=8", "--suite", "corruption", "--test")
    np.save(corrupted / "labels.npy", np.zeros(20, np.int64))
    assert evaluated(monkeypatch, workspace, *words) == 2
    assert "differs from the labels of" in capsys.readouterr().err
    order = datasets.test_order(4)
    labels = np.zeros(4, np.int64)
    labels[order] = datasets.load(DataSource("cifar10", size=8), workspace).test.y.numpy()
    np.save(corrupted / "labels.npy", np.tile(labels, 5))
    (corrupted / "fog.npy").write_bytes(b"<!DOCTYPE html>")
    assert evaluated(monkeypatch, workspace, *words) == 2
    assert "is not an .npy file" in capsys.readouterr().err
    np.save(corrupted / "fog.npy", np.zeros((19, 8, 8, 3), np.uint8))
    assert evaluated(monkeypatch, workspace, *words) == 2
    error = capsys.readouterr().err
    assert "holds 19 images, not 4 at each of 5 severities" in error and error.count("\n") == 1
    np.save(corrupted / "fog.npy", np.zeros((20, 8, 8, 3), np.uint8))
    assert evaluated(monkeypatch, workspace, *words) == 0


def shallow():
    return build("small", 3, 2)
