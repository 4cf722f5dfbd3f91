"""Nets of timm and transformers from local files, against what these libraries themselves make of an image."""

import json
import sys

import numpy as np
import pytest
import torch

from harness.data import datasets
from harness.data.settings import DataSource
from harness.errors import UserError
from harness.evaluation.external.loading import load_external
from harness.models import torchvision_import

assert torchvision_import.torchvision  # before both


@pytest.fixture(scope="module")
def shapes(shared_workspace):
    return datasets.load(DataSource("shapes"), shared_workspace)


@pytest.fixture(scope="module")
def timm():
    return pytest.importorskip("timm", reason="timm is not installed: make peers")


@pytest.fixture(scope="module")
def transformers():
    return pytest.importorskip("transformers", reason="transformers is not installed: pip install -e .[hf]")


def refusal(*given, **more):
    with pytest.raises(UserError) as refused:
        load_external(*given, **more)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def inputs(shapes):
    """Four images as they come, in [0, 1], and as PIL has them."""
    from PIL import Image

    x = shapes.test.x[:4]
    return x.float() / 255, [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in x]


# Without the libraries


@pytest.mark.parametrize(
    ("model", "package", "extra"), [("timm:resnet18", "timm", "timm"), ("hf:HERE", "transformers", "hf")]
)
def test_a_library_that_is_not_installed_names_its_extra(model, package, extra, shapes, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    weights = tmp_path / "w.pt" if extra == "timm" else None
    said = refusal(model.replace("HERE", str(tmp_path)), weights, shapes)
    assert said.startswith(f"{package} ") and said.endswith(f"pip install -c constraints.txt -e .[{extra}]")


def test_what_the_network_would_have_to_give_is_refused(shapes, tmp_path):
    assert refusal("hf:google/vit-base-patch16-224", None, shapes).endswith(
        "'google/vit-base-patch16-224' is no folder here, and nothing is fetched; download it first"
    )
    assert refusal("timm:resnet18", None, shapes).endswith("needs --weights FILE: published weights are not fetched")
    assert "--weights does not go with it" in refusal(f"hf:{tmp_path}", tmp_path / "w.pt", shapes)


# timm


@pytest.mark.peer
@pytest.mark.parametrize("name", ["test_resnet", "test_resnet.r160_in1k", "test_efficientnet"])
def test_a_net_of_timm_sees_images_as_timm_prepares_them(name, timm, shapes, tmp_path):
    torch.manual_seed(0)
    theirs = timm.create_model(name, pretrained=False, num_classes=len(shapes.classes)).eval()
    torch.save({"state_dict_ema": theirs.state_dict()}, tmp_path / "w.pth.tar")
    said = []
    ours = load_external(f"timm:{name}", tmp_path / "w.pth.tar", shapes, say=said.append)
    published = {**timm.data.resolve_model_data_config(theirs), "input_size": (3, 32, 32), "crop_pct": 1.0}
    prepare = timm.data.create_transform(**published, is_training=False)
    x, pictures = inputs(shapes)
    with torch.no_grad():
        expected = theirs(torch.stack([prepare(picture) for picture in pictures]))
        assert torch.allclose(ours(x), expected, atol=1e-5)
        assert not torch.allclose(theirs(x), expected, atol=1e-3)
    mean = " ".join(f"{value:.4g}" for value in published["mean"])
    assert said[0].startswith(f"timm:{name}: images normalised by its published mean {mean} and standard deviation ")


@pytest.mark.peer
def test_a_feature_layer_of_timm_has_timms_name(timm, shapes, tmp_path):
    torch.save(timm.create_model("test_resnet", num_classes=len(shapes.classes)).state_dict(), tmp_path / "w.pt")
    net = load_external("timm:test_resnet", tmp_path / "w.pt", shapes, features="layer4")
    x, _ = inputs(shapes)
    maps, logits = net.features_and_logits(x)
    assert maps.dim() == 4 and torch.allclose(logits, net(x))


@pytest.mark.peer
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("resnet81", "timm has no 'resnet81'; did you mean 'resnet"),
        ("hf-hub:timm/resnet18.a1_in1k", "would be fetched; name an architecture of timm and a file by --weights"),
        ("vit_tiny_patch16_224", "does not take images of 3x32x32: AssertionError"),
        ("resnet18", "holds the weights of another net: it lacks "),
    ],
)
def test_what_timm_has_not_is_one_line(name, says, timm, shapes, tmp_path):
    weights = timm.create_model(name if name.startswith("vit") else "test_resnet", num_classes=len(shapes.classes))
    torch.save(weights.state_dict(), tmp_path / "w.pt")
    assert says in refusal(f"timm:{name}", tmp_path / "w.pt", shapes)


@pytest.mark.peer
def test_a_net_of_three_channels_is_not_normalised_for_one(timm, shared_workspace, tmp_path):
    torch.save(timm.create_model("test_resnet", num_classes=10, in_chans=1).state_dict(), tmp_path / "w.pt")
    digits = datasets.load(DataSource(), shared_workspace)
    assert "normalises 3 channels, the data have 1" in refusal("timm:test_resnet", tmp_path / "w.pt", digits)


# transformers


@pytest.fixture
def folder(transformers, shapes, tmp_path):
    """A function that saves a small net and how it prepares images, and returns the net and the folder."""

    def save(labels=None, processor=None, **config):
        torch.manual_seed(0)
        names = labels or shapes.classes
        sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "num_labels": len(names)}
        labelled = {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
        net = transformers.ResNetForImageClassification(transformers.ResNetConfig(**sizes, **labelled, **config))
        net.save_pretrained(tmp_path)
        prepared = {"image_processor_type": "ConvNextImageProcessor", "do_resize": False, "do_rescale": True}
        prepared |= {"do_normalize": True, "image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.1]}
        prepared |= {"rescale_factor": 1 / 255, "size": {"shortest_edge": 32}, **(processor or {})}
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(prepared))
        return net.eval(), tmp_path

    return save


@pytest.mark.peer
@pytest.mark.filterwarnings("ignore::Warning")  # of transformers
@pytest.mark.parametrize("normalised", [True, False])
def test_a_net_of_transformers_sees_images_as_its_processor_prepares_them(normalised, transformers, folder, shapes):
    theirs, path = folder(processor={"do_normalize": normalised})
    said = []
    ours = load_external(f"hf:{path}", None, shapes, say=said.append)
    x, pictures = inputs(shapes)
    prepare = transformers.AutoImageProcessor.from_pretrained(path, local_files_only=True)
    with torch.no_grad():
        expected = theirs(**prepare([np.asarray(picture) for picture in pictures], return_tensors="pt")).logits
        assert torch.allclose(ours(x), expected, atol=1e-5)
    assert ("mean 0.4 0.5 0.6 and standard deviation 0.2 0.3 0.1" in said[0]) == normalised
    assert "of which the logits are taken" in said[1]


@pytest.mark.peer
@pytest.mark.filterwarnings("ignore::Warning")  # of transformers
def test_what_a_folder_of_transformers_lacks_is_one_line(folder, shapes):
    def said(**how):
        return refusal(f"hf:{folder(**how)[1]}", None, shapes)

    first, *rest = shapes.classes
    assert "has the data's classes in another order" in said(labels=[*rest, first])
    assert "scales pixels by 0.00784" in said(processor={"rescale_factor": 1 / 127.5})
    assert "takes BGR images" in said(
        processor={"image_processor_type": "MobileViTImageProcessor", "do_flip_channel_order": True}
    )
    _, path = folder()
    (path / "model.safetensors").rename(path / "kept.safetensors")
    torch.save({}, path / "pytorch_model.bin")
    assert "cannot be loaded from its files alone: OSError: " in refusal(f"hf:{path}", None, shapes)
    (path / "kept.safetensors").rename(path / "model.safetensors")
    (path / "preprocessor_config.json").unlink()
    assert "cannot be loaded from its files alone: OSError: " in refusal(f"hf:{path}", None, shapes)


@pytest.mark.peer
@pytest.mark.filterwarnings("ignore::Warning")  # of transformers
def test_weights_without_a_head_are_refused(folder, shapes):
    from safetensors.torch import load_file, save_file

    _, path = folder()
    weights = load_file(path / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if not name.startswith("classifier")}
    save_file(kept, path / "model.safetensors", metadata={"format": "pt"})
    assert "lacks weights of its net: classifier." in refusal(f"hf:{path}", None, shapes)
