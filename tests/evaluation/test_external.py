"""Nets from elsewhere whose mode cannot be changed."""

import pytest
import torch
from torch import nn

from harness.data import datasets
from harness.data.settings import DataSource
from harness.evaluation.external.loading import load_external
from harness.models.freezing import frozen


class AroundAProgram(nn.Module):
    """A program of torch.export, whose refusal of `eval()` comes before the dropout's turn."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        images = torch.export.Dim("images", min=1, max=4096)
        program = torch.export.export(net, (torch.rand(2, 1, 8, 8),), dynamic_shapes=({0: images},))
        self.program, self.dropout = program.module(), nn.Dropout(0.9)

    def forward(self, x):
        return self.dropout(self.program(x))


def test_modules_beside_an_exported_program_are_evaluated_too(workspace):
    with pytest.raises(NotImplementedError):
        AroundAProgram().eval()
    data = datasets.load(DataSource(), workspace)
    net = load_external(f"{__name__}:AroundAProgram", None, data)
    x = torch.rand(5, 1, 8, 8)
    assert not net.training and torch.equal(net(x), AroundAProgram().program(x))
    with frozen(net, train=True):
        assert not torch.equal(net(x), net(x))
    assert torch.equal(net(x), net(x))
