"""Checkpoints as common tools write them: each holds exactly the weights of a net, or is refused by what it holds."""

import argparse
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from harness.errors import UserError
from harness.evaluation.external.weights import load_into
from harness.models.nets import build


@pytest.fixture(scope="module")
def net():
    """A net with BatchNorm, whose running statistics are those of no other."""
    torch.manual_seed(0)
    net = build("small", 3, 10)
    net(torch.rand(8, 3, 8, 8))
    return net.eval()


@pytest.fixture
def weights(net):
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}


def other(weights):
    """Other weights of the same net."""
    return {name: tensor + 1 for name, tensor in weights.items()}


def under(prefix, weights):
    return {prefix + name: tensor for name, tensor in weights.items()}


def without_counters(weights):
    return {name: tensor for name, tensor in weights.items() if "num_batches" not in name}


def counted(weights):
    """As thop leaves a net: two counts in every module."""
    modules = {name.rpartition(".")[0] for name in weights} - {""}
    counts = [f"{module}.{count}" for module in modules for count in ("total_ops", "total_params")]
    return {**weights, "total_ops": torch.zeros(1), **{name: torch.zeros(1) for name in counts}}


def cast(weights, kind):
    return {name: tensor.to(kind) if tensor.is_floating_point() else tensor for name, tensor in weights.items()}


def mixed(weights):
    half = len(weights) // 2
    return {**under("module.", dict([*weights.items()][:half])), **dict([*weights.items()][half:])}


READ = {  # name: (what is saved, what is said)
    "compiled": (lambda w: under("_orig_mod.", w), "_orig_mod removed from names"),
    "lightning": (lambda w: {"state_dict": under("model.", w), "epoch": 3}, "'state_dict'; prefix 'model.' removed"),
    "averaged": (
        lambda w: {"n_averaged": torch.tensor(3), **under("module.", w)},
        "prefix 'module.' removed; 1 counters left out (n_averaged)",
    ),
    "without counters": (without_counters, "3 num_batches_tracked missing"),
    "profiled": (
        lambda w: {**w, "total_ops": torch.zeros(1), "total_params": torch.zeros(1)},
        "2 counters left out (total_ops, total_params)",
    ),
    "average only": (lambda w: {"epoch": 1, "ema_state_dict": w}, "those of 'ema_state_dict'"),
    "params_ema": (lambda w: {"params_ema": w}, "those of 'params_ema'"),
    # Kinds of these that no case shows.
    "parallel and compiled": (
        lambda w: under("module._orig_mod.", w),
        "_orig_mod removed from names; prefix 'module.'",
    ),
    "compiled and parallel": (
        lambda w: under("_orig_mod.module.", w),
        "_orig_mod removed from names; prefix 'module.'",
    ),
    "compiled within": (
        lambda w: {name.replace("features.", "features._orig_mod."): t for name, t in w.items()},
        "_orig_mod removed from names",
    ),
    "sharded": (lambda w: under("_fsdp_wrapped_module.", w), "_fsdp_wrapped_module removed from names"),
    "lightning around a wrapper": (lambda w: {"state_dict": under("model.net.", w)}, "prefix 'model.', 'net.' removed"),
    "prefixes of some": (mixed, "prefix 'module.' removed"),
    "parallel twice": (lambda w: under("module.module.", w), "prefix 'module.' removed"),
    "attribute beside a loss": (
        lambda w: {"state_dict": {**under("backbone.", w), "criterion.weight": torch.ones(10)}},
        "prefix 'backbone.' removed; 1 tensors outside left out, such as 'criterion.weight'",
    ),
    "profiled in every module": (counted, "counters left out (total_ops, total_params)"),
    "averaged without counters": (
        lambda w: {"model_ema": {"n_averaged": torch.tensor(3), **under("module.", without_counters(w))}},
        "those of 'model_ema'; prefix 'module.' removed; 1 counters left out (n_averaged); 3 num_batches_tracked",
    ),
    "nested": (lambda w: {"checkpoint": {"model": w, "epoch": 3}}, "those of 'checkpoint.model'"),
    "beside plain values": (lambda w: {**w, "epoch": 3, "name": "small"}, ""),
    "beside an optimiser": (
        lambda w: {"model": w, "optimizer": {"state": {name: {"exp_avg": t} for name, t in w.items()}}},
        "those of 'model'",
    ),
    "beside another net": (lambda w: {"generator": w, "critic": {"a.weight": torch.ones(2)}}, "those of 'generator'"),
    "twice the same": (lambda w: {"student": w, "teacher": dict(w)}, "those of 'student'"),
    "model before ema": (
        lambda w: {"ema": other(w), "model": w},
        "those of 'model', and not of 'ema': --weights-key names others",
    ),
    "half": (lambda w: cast(w, torch.float16), "float16 made float32"),
    "bfloat16 of lightning": (
        lambda w: {"state_dict": under("model.", cast(w, torch.bfloat16))},
        "bfloat16 made float32",
    ),
    "double": (lambda w: cast(w, torch.float64), "float64 made float32"),
    "real counters": (lambda w: {name: tensor.float() for name, tensor in w.items()}, ""),
    "as it is": (lambda w: w, ""),
}


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("kind", READ)
def test_a_checkpoint_of_these_weights_gives_them(kind, legacy, tmp_path, net, weights):
    saved, says = READ[kind]
    saved, said, file = saved(weights), [], tmp_path / "w.pt"
    torch.save(saved, file, _use_new_zipfile_serialization=not legacy)
    torch.manual_seed(1)
    again = build("small", 3, 10).eval()
    load_into(again, file, say=said.append)
    assert len(said) == bool(says)
    assert not says or (said[0].startswith(f"weights of {str(file)!r}: ") and says in said[0] and "\n" not in said[0])
    exact = cast(cast(weights, torch.float16), torch.float32) if kind == "half" else weights
    exact = cast(cast(weights, torch.bfloat16), torch.float32) if kind.startswith("bfloat16") else exact
    filled = "without counters" in kind
    for name, tensor in again.state_dict().items():
        assert tensor.dtype == weights[name].dtype
        assert torch.equal(tensor, exact[name]) or (filled and "num_batches" in name), name
    if not filled and exact is weights:
        x = torch.rand(2, 3, 8, 8)
        assert torch.equal(again(x), net(x))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own compiler
def test_a_compiled_net_takes_plain_weights_and_gives_them_its_names(tmp_path, net, weights):
    torch.save({"state_dict": under("module.", weights)}, tmp_path / "w.pt")
    compiled = torch.compile(build("small", 3, 10))
    load_into(compiled, tmp_path / "w.pt")
    assert all(torch.equal(t, weights[n.removeprefix("_orig_mod.")]) for n, t in compiled.state_dict().items())


def test_safetensors_are_known_by_their_content(tmp_path, weights):
    save_file({name: t.contiguous() for name, t in under("model.", weights).items()}, tmp_path / "w.pt")
    net, said = build("small", 3, 10), []
    load_into(net, tmp_path / "w.pt", say=said.append)
    assert torch.equal(net.state_dict()["head.weight"], weights["head.weight"]) and "'model.'" in said[0]


@pytest.mark.parametrize(
    ("saved", "key"),
    [
        (lambda w: {"state_dict": other(w), "state_dict_ema": w}, "state_dict_ema"),
        (lambda w: {"params": other(w), "params_ema": w}, "params_ema"),
        (lambda w: {"model": other(w), "averages": {"slow": other(other(w)), "fast": w}}, "averages.fast"),
        (lambda w: {"model": other(w), "averages": {"state_dict": w, "step": 3}}, "averages"),
        (lambda w: {"state_dict": {**under("encoder_q.", w), **under("encoder_k.", other(w))}}, "encoder_q"),
        (lambda w: {"online": other(w), "ema": {"module": under("module.", w)}}, "ema.module"),
        (lambda w: {**normalised("0.mean", "0.std"), **under("1.", w)}, "1"),
    ],
    ids=["timm", "basicsr", "dotted", "above", "names", "wrapped", "without its normalisation"],
)
def test_a_key_chooses_the_weights(saved, key, tmp_path, weights):
    torch.save(saved(weights), tmp_path / "w.pt")
    net = build("small", 3, 10)
    load_into(net, tmp_path / "w.pt", key)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in net.state_dict().items())


@pytest.mark.parametrize("below", ["", "backbone."])
def test_one_set_of_weights_with_nan_is_one_set(below, tmp_path, weights):
    """It differs from itself, and is not several."""
    weights["head.bias"][0] = torch.nan
    torch.save(under(below, weights), tmp_path / "w.pt")
    net = build("small", 3, 10)
    load_into(net, tmp_path / "w.pt")
    assert net.state_dict()["head.bias"].isnan().tolist() == [True] + [False] * 9


def test_float8_is_made_float32(tmp_path, weights):
    coarse, said = cast(weights, torch.float8_e4m3fn), []
    torch.save({"a": coarse, "b": coarse}, tmp_path / "w.pt")
    net = build("small", 3, 10)
    load_into(net, tmp_path / "w.pt", say=said.append)
    assert torch.equal(net.state_dict()["head.weight"], coarse["head.weight"].float()) and "float8" in said[0]


class Differing(nn.Module):
    """Another net, of the same tensors in the same order under other names."""

    def __init__(self):
        super().__init__()
        net = build("small", 3, 10)
        self.mean, self.std = (nn.Buffer(torch.zeros(3)) for _ in range(2))
        self.feature, self.head = net.features, net.head


def without(weights, name):
    return {key: tensor for key, tensor in weights.items() if key != name}


def normalised(*names):
    return {name: torch.ones(3, 1, 1) for name in names}


REFUSED = {  # name: (what is saved, what is said after the name of the file)
    "numpy scalar": (lambda w: {"state_dict": w, "best_acc": np.float64(0.9)}, "holds a numpy scalar, and nothing"),
    "namespace": (lambda w: {"model": w, "args": argparse.Namespace(lr=0.1)}, "holds an object of argparse.Namespace"),
    "module": (lambda w: build("small", 3, 10), "holds a pickled module of class harness.models.nets.Net, and nothing"),
    "module within": (lambda w: {"model": build("small", 3, 10)}, "a pickled module of class harness.models.nets.Net"),
    "array": (lambda w: {"w": np.zeros(3)}, "holds a numpy array, and nothing pickled is run: save net.state_dict()"),
    "path": (lambda w: {"state_dict": w, "from": Path("/x")}, "holds an object of pathlib"),
    "optimiser": (
        lambda w: {"state_dict": w, "o": torch.optim.SGD([torch.ones(1)])},
        "an object of torch.optim.sgd.SGD",
    ),
    "other names": (
        lambda w: Differing().state_dict(),
        "holds the weights of another net: it lacks 'features.convs.0.weight', and has 'feature.convs.0.weight' (15 of",
    ),
    "larger net": (
        lambda w: under("module.", {**w, "features.convs.3.weight": torch.ones(2)}),
        "another net: it has 'features.convs.3.weight', which the net has not (0 of 22 tensors missing, 1 too many)",
    ),
    "smaller net": (lambda w: without(w, "head.bias"), "it lacks 'head.bias' (1 of 22 tensors missing, 0 too many)"),
    "other shape": (lambda w: {**w, "head.bias": torch.ones(7)}, "'head.bias' is (7,), the net's is (10,)"),
    "large counter": (lambda w: {**w, "total_ops": torch.ones(3)}, "it has 'total_ops', which the net has not"),
    "whole numbers": (
        lambda w: {**w, "head.weight": w["head.weight"].to(torch.int8)},
        "'head.weight' is of torch.int8, the net's of torch.float32",
    ),
    "two of a name": (lambda w: {**w, "model.head.bias": w["head.bias"] + 1}, "two of its tensors are 'head.bias'"),
    "two nets": (
        lambda w: {"student": w, "teacher": other(w)},
        "holds several weights that fit the net and differ: student, teacher; name one by --weights-key",
    ),
    "two prefixes": (
        lambda w: {**under("encoder_q.", w), **under("encoder_k.", other(w))},
        "holds several weights that fit the net and differ: encoder_k, encoder_q; name one by --weights-key",
    ),
    "normalised before the net": (
        lambda w: {**normalised("0.mean", "0.std"), **under("1.", w)},
        "its '0.mean' normalises the input outside of the net; give a net with that layer, or leave it out by --we",
    ),
    "of robustness": (  # its attacker holds the net again
        lambda w: {
            "model": {
                **normalised("module.normalizer.new_mean", "module.normalizer.new_std"),
                **under("module.model.", w),
                **under("module.attacker.model.", w),
            }
        },
        "its 'module.normalizer.new_mean' normalises the input outside of the net",
    ),
    "normalised beside the net": (
        lambda w: {"state_dict": {**normalised("mu", "sigma"), **under("backbone.", w)}},
        "its 'mu' normalises the input outside of the net",
    ),
    "sparse": (lambda w: {**w, "head.weight": w["head.weight"].to_sparse()}, "'head.weight' is sparse; save it dense"),
    "without data": (lambda w: {**w, "head.bias": w["head.bias"].to("meta")}, "'head.bias' is empty (of device meta)"),
    "optimiser alone": (lambda w: {"optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}}, "holds no weights"),
    "optimiser alone by names": (lambda w: {"optim": {"state": {"a": {"step": torch.ones(2)}}}}, "holds no weights"),
    "list": (lambda w: [*w.values()], "holds no weights"),
    "nothing": (lambda w: {}, "holds no weights"),
}


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_not_the_nets_is_refused_by_what_it_is(kind, legacy, tmp_path, weights):
    saved, says = REFUSED[kind]
    file = tmp_path / "w.pth.tar"
    torch.save(saved(weights), file, _use_new_zipfile_serialization=not legacy)
    net = build("small", 3, 10)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with pytest.raises(UserError) as refused:
        load_into(net, file)
    assert str(refused.value).startswith(repr(str(file))) and says in str(refused.value), refused.value
    assert "\n" not in str(refused.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def torchscript(net, file):
    torch.jit.trace(net, torch.rand(2, 3, 8, 8)).save(str(file))


def program(net, file):
    torch.export.save(torch.export.export(net, (torch.rand(2, 3, 8, 8),)), file)


def arrays(net, file):
    with open(file, "wb") as opened:
        np.savez(opened, **{name: tensor.numpy() for name, tensor in net.state_dict().items()})


def array(net, file):
    with open(file, "wb") as opened:
        np.save(opened, np.ones(3))


def plain_pickle(net, file):
    file.write_bytes(pickle.dumps({name: tensor.numpy() for name, tensor in net.state_dict().items()}))


def pointer(net, file):
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n")


def keras(net, file):
    file.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(64))


@pytest.mark.filterwarnings("ignore::Warning")  # of torch, on what it still writes
@pytest.mark.parametrize(
    ("write", "says"),
    [
        (torchscript, "is a TorchScript program, which is code, not a checkpoint: save net.state_dict()"),
        (program, "is a program of torch.export, which is code, not a checkpoint: save net.state_dict()"),
        (arrays, "is an archive of numpy arrays"),
        (array, "is a numpy array"),
        (plain_pickle, "is a pickle that torch.save did not write, and is not run"),
        (pointer, "is a pointer of Git LFS"),
        (keras, "is an HDF5 file, as Keras writes"),
    ],
)
def test_files_of_other_kinds_are_named(write, says, tmp_path, net):
    write(net, tmp_path / "w.pt")
    with pytest.raises(UserError) as refused:
        load_into(build("small", 3, 10), tmp_path / "w.pt")
    assert str(refused.value).startswith(f"{str(tmp_path / 'w.pt')!r} {says}"), refused.value


@pytest.mark.parametrize(
    ("saved", "key", "says"),
    [
        (lambda w: {"model": w, "model_ema": w}, "model_em", "did you mean 'model_ema'?"),
        (lambda w: {"model": w, "slow": {"ema": w}}, "xyz", "there are: model, slow.ema"),
        (lambda w: under("net.", w), "nett", "did you mean 'net'?"),
        (lambda w: {"model": w, "epoch": 3}, "epoch", "there are: model"),
        (
            lambda w: {"model": w, "slow": {"a": w, "b": other(w)}},
            "slow",
            "several weights that fit the net and differ",
        ),
    ],
)
def test_a_key_that_is_not_there_names_those_that_are(saved, key, says, tmp_path, weights):
    torch.save(saved(weights), tmp_path / "w.pt")
    with pytest.raises(UserError) as refused:
        load_into(build("small", 3, 10), tmp_path / "w.pt", key)
    assert says in str(refused.value), refused.value
