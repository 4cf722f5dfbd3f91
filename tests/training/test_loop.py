"""The training loop: resumption bit for bit, schedules, averages, and plain reasons when it ends early."""

import math

import pytest
import torch

import methods
from harness.data.batches import Batches
from harness.data.settings import Augment
from harness.errors import Diverged, UserError
from harness.models import nets
from harness.training import loop
from harness.training import optim as training_optim
from harness.training.settings import Optim


class Interrupted(Exception):
    pass


def problem():
    generator = torch.Generator().manual_seed(1)
    x = torch.randint(256, (40, 1, 8, 8), dtype=torch.uint8, generator=generator)
    y = torch.randint(3, (40,), generator=generator)
    torch.manual_seed(5)
    return nets.build("small", 1, 3), Batches(x, y, batch=16, augment=Augment(pad=1, flip=True))


def fit(folder, epochs=4, stop_after=None, method="pgd_noise", optim=None, seed=7):
    """Train in `folder`; `stop_after` so many epochs by an exception, as a killed process would."""
    model, batches = problem()
    heard = []

    def report(row):
        heard.append(row)
        if row["epoch"] == stop_after:
            raise Interrupted

    net, rows = loop.fit(
        model,
        methods.make(method),
        batches,
        optim or Optim(lr=0.05, schedule="cosine", average=0.9),
        epochs,
        seed=seed,
        checkpoint=folder / "checkpoint.pt",
        watch=lambda net, done: {"curve/sum": float(sum(p.detach().sum() for p in net.parameters()))},
        report=report,
    )
    return net, rows, heard


def weights(net):
    return torch.cat([v.flatten().double() for v in net.state_dict().values()])


@pytest.mark.parametrize("optim", [Optim(lr=0.05, schedule="cosine", average=0.9), Optim(name="adam", lr=1e-3)])
@pytest.mark.parametrize("after", [1, 3])
def test_interrupted_and_resumed_is_the_same_bit_for_bit(tmp_path, optim, after):
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    whole, rows, _ = fit(tmp_path / "a", optim=optim)
    with pytest.raises(Interrupted):
        fit(tmp_path / "b", optim=optim, stop_after=after)
    torch.rand(17)  # whatever else was drawn meanwhile
    resumed, again, heard = fit(tmp_path / "b", optim=optim)
    assert torch.equal(weights(whole), weights(resumed))
    strip = [[{k: v for k, v in row.items() if k != "seconds"} for row in r] for r in (rows, again, heard)]
    assert strip[0] == strip[1] == strip[2]  # and rows from before are reported again


def test_another_seed_is_another_run(tmp_path):
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    assert not torch.equal(weights(fit(tmp_path / "a", 1)[0]), weights(fit(tmp_path / "b", 1, seed=8)[0]))


def test_a_loss_that_is_not_finite_ends_the_run_with_the_place(tmp_path):
    with pytest.raises(Diverged, match=r"loss became (nan|inf) in epoch \d+, batch \d+"):
        fit(tmp_path, method="standard", optim=Optim(lr=1e30), epochs=6)


@pytest.mark.parametrize("garbage", [b"", b"not a checkpoint", b"PK\x03\x04 half a zip"])
def test_a_file_that_is_no_checkpoint_is_set_aside(tmp_path, garbage):
    (tmp_path / "checkpoint.pt").write_bytes(garbage)
    with pytest.warns(UserWarning, match=r"checkpoint\.pt' is damaged"):
        fit(tmp_path)
    assert (tmp_path / "checkpoint.pt.damaged").read_bytes() == garbage  # nothing stored is lost


def test_a_checkpoint_of_another_net_is_named(tmp_path):
    torch.save({"model": {}, "optimiser": {}, "average": {}, "rows": []}, tmp_path / "checkpoint.pt")
    with pytest.raises(UserError, match="another net"):
        fit(tmp_path)


def test_lr_factors():
    assert [training_optim.lr_factor("step", t) for t in (0, 0.49, 0.5, 0.75)] == pytest.approx([1, 1, 0.1, 0.01])
    assert [training_optim.lr_factor("cosine", t) for t in (0, 0.5, 1)] == pytest.approx([1, 0.5, 0])
    assert [training_optim.lr_factor("cyclic", t) for t in (0, 0.2, 0.4, 0.7, 1)] == pytest.approx([0, 0.5, 1, 0.5, 0])
    assert training_optim.lr_factor("constant", 0.9) == 1


def test_the_average_of_the_weights_follows_its_formula(tmp_path):
    """With lr so small that the loss is linear, the average after n steps is that of the visited weights."""
    model, batches = problem()
    visited = []
    plain = methods.make("standard")

    class Recording:
        def loss(self, net, batch):
            visited.append(net.head.weight.detach().clone())
            return plain.loss(net, batch)

    optim = Optim(lr=0.01, average=0.8)
    net, _ = loop.fit(
        model,
        Recording(),
        batches,
        optim,
        2,
        seed=0,
        checkpoint=tmp_path / "c.pt",
        watch=lambda *_: {},
        report=lambda _: None,
    )
    visited = [*visited[1:], model.head.weight.detach()]
    average = visited[0]
    for w in visited[1:]:
        average = 0.8 * average + 0.2 * w
    assert torch.allclose(net.head.weight, average, atol=1e-6)
    assert not torch.allclose(net.head.weight, model.head.weight)


def test_clip_bounds_the_step(tmp_path):
    model, batches = problem()
    optim = Optim(lr=1.0, momentum=0.0, clip=1e-3)
    silent = {"watch": lambda *_: {}, "report": lambda _: None}
    loop.fit(model, methods.make("standard"), batches, optim, 1, seed=0, checkpoint=tmp_path / "c.pt", **silent)
    moved = list(model.parameters())
    start, _ = problem()
    change = math.sqrt(
        sum(float((a - b).detach().pow(2).sum()) for a, b in zip(moved, start.parameters(), strict=True))
    )
    assert 0 < change <= 3 * 1e-3 + 1e-6


def test_bf16_trains_close_to_float32(tmp_path):
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    exact, rows, _ = fit(tmp_path / "a", 1, method="standard", optim=Optim(lr=0.01, precision="float32"))
    half, rough, _ = fit(tmp_path / "b", 1, method="standard", optim=Optim(lr=0.01, precision="bf16"))
    assert rows[0]["train/ce"] == pytest.approx(rough[0]["train/ce"], rel=0.05)
    assert not torch.equal(weights(exact), weights(half))
    assert all(p.dtype == torch.float32 for p in half.parameters())
