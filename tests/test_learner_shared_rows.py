"""Statistics and rows that processes share: one, two and three come to what torch says of the whole batch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import shared_rows
import torch
from shared_rows import images, loss_of, network, part
from torch import Tensor, nn

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> dict[int, list[dict[str, Tensor]]]:
    folder = tmp_path_factory.mktemp("shared")
    path = os.pathsep.join([str(Path(shared_rows.__file__).parent), *sys.path])
    words = [sys.executable, shared_rows.__file__, str(folder), "2", "3"]
    subprocess.run(words, env=os.environ | {"PYTHONPATH": path}, timeout=300, check=True)
    several = {count: [torch.load(folder / f"{count}-{number}") for number in range(count)] for count in (2, 3)}
    return {1: [part()]} | several


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_batch_norm_has_the_statistics_of_all_processes(
    count: int, parts: dict[int, list[dict[str, Tensor]]]
) -> None:
    whole, found = network(), parts[count]
    norm = whole[1]
    assert isinstance(norm, nn.BatchNorm2d)
    rows = whole(images())
    assert torch.allclose(torch.cat([one["rows"] for one in found]), rows, rtol=1e-4, atol=1e-5)
    later = whole.eval()(images())
    assert torch.allclose(torch.cat([one["later"] for one in found]), later, rtol=1e-4, atol=1e-5)
    for one in found:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        assert torch.allclose(one["mean"], norm.running_mean, rtol=1e-4)
        assert torch.allclose(one["var"], norm.running_var, rtol=1e-4)


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("gather", ["everyone", "all_rows"])
def test_rows_of_all_processes_come_with_gradient_or_without(
    gather: str, count: int, parts: dict[int, list[dict[str, Tensor]]]
) -> None:
    """Also the gradient through the statistics of the batch norm."""
    whole = network()
    rows = whole(images())
    torch.autograd.backward(loss_of(rows, rows if gather == "everyone" else rows.detach()))
    expected = torch.cat([weight.grad.flatten() for weight in whole.parameters() if weight.grad is not None])
    for one in parts[count]:
        assert torch.allclose(one[gather], expected, rtol=1e-3, atol=1e-4)


def test_the_two_gradients_differ(parts: dict[int, list[dict[str, Tensor]]]) -> None:
    assert not torch.allclose(parts[1][0]["everyone"], parts[1][0]["all_rows"], rtol=0.1)
