"""The formula of the loss, and the promises that everything with a name keeps."""

import subprocess
import sys

import pytest
import torch
from saliency_alp.method import ALP
from torch.nn import functional as F

from harness.data.batches import Batch
from harness.models import nets


def test_the_loss_is_that_of_the_paper():
    torch.manual_seed(0)
    net, batch = nets.build("small", 1, 4).eval(), Batch(torch.rand(6, 1, 8, 8), torch.arange(6) % 4)
    method = ALP(weight=0.3)
    torch.manual_seed(1)
    terms = method.loss(net, batch)
    torch.manual_seed(1)
    attacked, clean = net(method.perturb(net, batch)), net(batch.x)
    log_p = torch.cat([clean, attacked]).log_softmax(1).gather(1, batch.y.repeat(2)[:, None])
    torch.testing.assert_close(terms["ce"], -log_p.mean())
    torch.testing.assert_close(terms["pairing"], 0.3 * ((attacked - clean) ** 2).mean())
    unpaired = ALP(weight=0.0).loss(net, batch)
    assert unpaired["pairing"] == 0 and F.relu(terms["pairing"]) > 0


@pytest.mark.parametrize(
    "name", ["method:ALP", "net:thin", "map:InputXGradient", "suite:SUITE", "data:bars", "study:SPACE"]
)
def test_it_keeps_what_ours_keep(name):
    words = [sys.executable, "-m", "harness.check", f"saliency_alp.{name}"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
