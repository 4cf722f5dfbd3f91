"""Nets from elsewhere, as people have them: what they return, how they are made, and how they fail."""

import collections
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from sweeps import ROOT
from torch import nn

from harness.data import datasets
from harness.data.settings import DataSource
from harness.errors import UserError
from harness.evaluation.external import outputs
from harness.evaluation.external.loading import fingerprint, load_external
from harness.models.feature_layer import WithFeatureLayer
from harness.models.freezing import frozen


@pytest.fixture(scope="module")
def digits(shared_workspace):
    return datasets.load(DataSource(), shared_workspace)


def refusal(model, data):
    with pytest.raises(UserError) as refused:
        load_external(model, None, data)
    assert "\n" not in str(refused.value)
    return str(refused.value)


class Classifier(nn.Module):
    """A small convolutional net that returns its logits as `form` makes of them."""

    def __init__(self, form=lambda logits: logits, classes=10):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.head, self.form = nn.Conv2d(1, 4, 3), nn.Linear(4, classes), form

    def forward(self, x):
        return self.form(self.head(self.layer(x).relu().mean((2, 3))))


Named = collections.namedtuple("Named", "logits aux")


class Output(collections.OrderedDict):
    """As Hugging Face's: a dict of which every value is an attribute too."""

    __getattr__ = collections.OrderedDict.__getitem__


FORMS = {
    "tuple": lambda logits: (logits, logits + 1),
    "list": lambda logits: [logits],
    "dict": lambda logits: {"features": logits + 1, "logits": logits},
    "named tuple": lambda logits: Named(logits, logits + 1),
    "named tuple with its logits last": lambda logits: collections.namedtuple("N", "aux logits")(logits + 1, logits),
    "attribute": lambda logits: SimpleNamespace(loss=None, logits=logits),
    "dict with attributes": lambda logits: Output(logits=logits, hidden_states=logits + 1),
}


def made(form):
    """A factory of this module, which load_external looks up by name."""
    globals()["make"] = lambda: Classifier(FORMS[form]) if form else Classifier()
    return f"{__name__}:make"


@pytest.mark.parametrize("form", FORMS)
def test_logits_are_taken_out_of_what_a_net_returns(form, digits):
    said = []
    net = load_external(made(form), None, digits, say=said.append)
    x = torch.rand(5, 1, 8, 8)
    assert torch.equal(net(x), Classifier()(x)) and not net.training
    assert len(said) == 1 and "of which the logits are taken" in said[0]


def test_a_net_of_logits_is_left_as_it_is(digits):
    said = []
    net = load_external(made(""), None, digits, say=said.append)
    assert type(net) is Classifier and said == []


@pytest.mark.parametrize(
    ("form", "says"),
    [
        (lambda logits: {"scores": logits}, "gives dict for 2 images, not (2, 10) logits"),
        (lambda logits: (), "gives tuple for 2 images"),
        (lambda logits: ({"logits": logits},), "gives dict for 2 images"),
        (lambda logits: (logits.argmax(1), logits), "gives (2,) for 2 images"),
        (lambda logits: SimpleNamespace(logits=None), "gives NoneType for 2 images"),
        (lambda logits: None, "gives NoneType for 2 images"),
        (lambda logits: {"logits": logits[:, :7]}, "has 7 classes, the data 10"),
    ],
)
def test_what_has_no_logits_is_named(form, says, digits, monkeypatch):
    monkeypatch.setitem(FORMS, "bad", form)
    assert says in refusal(made("bad"), digits)


def test_a_feature_layer_has_the_name_that_its_own_net_gives_it(digits):
    plain = load_external(made(""), None, digits, features="layer")
    wrapped = load_external(made("tuple"), None, digits, features="layer")
    x = torch.rand(3, 1, 8, 8)
    assert isinstance(wrapped, WithFeatureLayer)
    for one, other in zip(plain.features_and_logits(x), wrapped.features_and_logits(x), strict=True):
        assert torch.equal(one, other)
    with pytest.raises(UserError, match="--features 'layr' is not known; did you mean 'layer'"):
        load_external(made("tuple"), None, digits, features="layr")


def by_classes(classes):
    return Classifier(classes=classes)


def by_num_classes(num_classes=1000, width=3):
    return Classifier(classes=num_classes)


def by_num_labels(*, num_labels=2):
    return Classifier(classes=num_labels)


def by_first_of_two(num_classes=7, classes=7):
    return Classifier(classes=classes)


def by_n_classes(n_classes):
    return Classifier(classes=n_classes)


def by_nb_classes(nb_classes=1000):
    return Classifier(classes=nb_classes)


class Configured(Classifier):
    def __init__(self, num_classes: int = 5):
        super().__init__(classes=num_classes)


@pytest.mark.parametrize(
    "name",
    ["by_classes", "by_num_classes", "by_num_labels", "by_first_of_two", "by_n_classes", "by_nb_classes", "Configured"],
)
def test_a_callable_is_given_the_number_of_classes_by_the_name_it_has_for_it(name, digits):
    assert load_external(f"{__name__}:{name}", None, digits)(torch.rand(2, 1, 8, 8)).shape == (2, 10)


@pytest.mark.slow
def test_a_net_of_torchvision_is_made_for_the_classes_of_the_data(shared_workspace):
    """Its functions name no number of classes: they pass it on."""
    shapes = datasets.load(DataSource("shapes", limit=20), shared_workspace)
    net = load_external("torchvision.models:shufflenet_v2_x0_5", None, shapes)
    assert net(torch.rand(2, 3, 32, 32)).shape == (2, 8)


MADE = Classifier()


def test_a_net_that_is_made_already_is_taken(digits):
    assert load_external(f"{__name__}:MADE", None, digits) is MADE


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_a_net_of_other_precision_is_measured_in_float32(kind, digits, monkeypatch):
    monkeypatch.setitem(globals(), "make", lambda: Classifier().to(kind))
    said = []
    net = load_external(f"{__name__}:make", None, digits, say=said.append)
    assert net(torch.rand(2, 1, 8, 8)).dtype == torch.float32
    assert said == [f"--model {__name__}:make: {str(kind).removeprefix('torch.')} made float32"]


@pytest.mark.slow
def test_a_module_that_imports_torchvision_can_be_named(tmp_path):
    """Beside a CPU-only torch its import alone fails; in a process that has not imported it before."""
    (tmp_path / "theirs.py").write_text(
        "import torchvision\ndef net(num_classes):\n    return torchvision.models.resnet18(num_classes=num_classes)"
    )
    code = (
        "from types import SimpleNamespace as Data\n"
        "from harness.evaluation.external import nets\n"
        "print(nets.make('theirs:net', Data(classes=range(7), channels=3), print).fc.out_features)"
    )
    theirs = {**os.environ, "PYTHONPATH": str(tmp_path)}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=theirs)
    assert run.stdout == "7\n", run.stderr


class TakingSome(Classifier):
    """A graph that was frozen for some numbers of images."""

    sizes = ()

    def forward(self, x):
        if len(x) not in self.sizes:
            raise RuntimeError(f"expected {self.sizes} images\nby a graph")
        return super().forward(x)


def statistics():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.BatchNorm1d(10, track_running_stats=False))


class Training(nn.Module):
    """BatchNorm that its author left in training mode."""

    def __init__(self):
        super().__init__()
        self.linear, self.norm = nn.Linear(64, 10), nn.BatchNorm1d(10)

    def forward(self, x):
        return self.norm.train()(self.linear(x.flatten(1)))


def exported(largest):
    some = torch.export.Dim("images", min=1, max=largest)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    return torch.export.export(net, (torch.rand(2, 1, 8, 8),), dynamic_shapes=({0: some},)).module()


def exported_for_two():
    return torch.export.export(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), (torch.rand(2, 1, 8, 8),)).module()


def exported_to_eight():
    return exported(8)


def for_two_or_64():
    net = TakingSome()
    net.sizes = (2, 64)
    return net


def for_few():
    net = TakingSome()
    net.sizes = range(1, 100)
    return net


class OfBatches(nn.Module):
    """BatchNorm over places too, so that one image has statistics."""

    def __init__(self):
        super().__init__()
        self.norm, self.linear = nn.BatchNorm2d(1, track_running_stats=False), nn.Linear(64, 10)

    def forward(self, x):
        return self.linear(self.norm(x).flatten(1))


class Random(nn.Module):
    """Differs from call to call, whatever the batch."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, 10)

    def forward(self, x):
        return self.linear(nn.functional.dropout(x.flatten(1), training=True))


def squeezed():
    return Classifier(lambda logits: logits.squeeze())


def in_pairs():
    return Classifier(lambda logits: logits.view(2, -1))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("OfBatches", "gives an image other logits beside 2 others than alone; build the net without batch statistics"),
        ("squeezed", "gives (10,) for 1 image, not (1, 10) logits"),
        ("in_pairs", "gives (2, 5) for 1 image, not (1, 10) logits"),
    ],
)
def test_a_net_whose_logits_depend_on_the_number_of_images_is_refused(name, says, digits):
    assert says in refusal(f"{__name__}:{name}", digits)


def test_a_net_of_random_logits_is_left_to_the_check_deterministic(digits):
    assert isinstance(load_external(f"{__name__}:Random", None, digits), Random)


def for_even():
    net = TakingSome()
    net.sizes = range(0, 1000, 2)
    return net


@pytest.mark.parametrize(
    ("name", "images"),
    [
        ("statistics", "1 image;"),
        ("Training", "1 image;"),
        ("for_two_or_64", "1 image;"),
        ("for_even", "1 image;"),
        ("for_few", "256 images;"),
        ("exported_for_two", "1 image;"),
        ("exported_to_eight", "256 images;"),
    ],
)
def test_a_net_for_some_numbers_of_images_is_refused_in_one_line_before_it_is_measured(name, images, digits):
    said = refusal(f"{__name__}:{name}", digits)
    assert f"takes 2 images, but not {images} the harness passes any number: " in said


def test_a_failure_of_a_net_while_it_is_measured_is_one_line_and_one_of_ours_is_not():
    net = nn.Sequential(TakingSome())
    with pytest.raises(UserError, match=r"^--model a:b fails on 27 images: RuntimeError: expected \(\) images$"):
        with outputs.failures_of("a:b"), frozen(net):
            net(torch.rand(27, 1, 8, 8))
    with pytest.raises(ZeroDivisionError):
        with outputs.failures_of("a:b"):
            print(1 / 0)
    with pytest.raises(UserError, match="as it is"), outputs.failures_of("a:b"):
        raise UserError("as it is")


def test_the_mark_of_a_strangers_net_is_that_of_earlier_versions(digits):
    """Stored evaluations are found by it."""
    assert fingerprint(load_external(made(""), None, digits), digits) == fingerprint(Classifier().eval(), digits)
    assert re.fullmatch("[0-9a-f]{16}", fingerprint(Classifier().eval(), digits))


def test_a_callable_of_a_file_is_named_by_the_file(tmp_path, digits):
    (tmp_path / "theirs.py").write_text(
        "import parts\ndef net(num_classes):\n    return parts.net(num_classes)\nlist_ = [1]\n"
    )
    (tmp_path / "parts.py").write_text(
        "from torch import nn\ndef net(n):\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, n))\n"
    )
    net = load_external(f"{tmp_path}/theirs.py:net", None, digits)
    assert net(torch.rand(2, 1, 8, 8)).shape == (2, 10)
    for wrong, says in {
        "theirs.py:nets": "did you mean 'net'?",
        "their.py:net": "there is no file",
        "theirs.py:list_": "names a list, which cannot be called",
    }.items():
        with pytest.raises(UserError) as refused:
            load_external(f"{tmp_path}/{wrong}", None, digits)
        assert says in str(refused.value) and str(refused.value).startswith("--model "), refused.value
