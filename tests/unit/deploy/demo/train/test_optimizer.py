from __future__ import annotations

import pytest
import torch
from torch import nn

from deploy.demo.train.filters import cosine_filters
from deploy.demo.train.optimizer import Optimizer, orthogonal


@pytest.mark.parametrize("shape", [(8, 8), (4, 16), (16, 4), (3, 6, 12)])
def test_singular_values_end_near_one(shape: tuple[int, ...]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonal(matrices))
    assert values.min() > 0.5
    assert values.max() < 1.3
    # the directions are those of the matrix itself
    u, _, v = torch.linalg.svd(matrices, full_matrices=False)
    assert torch.linalg.matrix_norm(orthogonal(matrices) - u @ v).max() < 0.4 * min(shape[-2:]) ** 0.5


def learner() -> nn.ModuleDict:
    torch.manual_seed(1)
    return nn.ModuleDict({"embed": nn.Embedding(5, 4), "inner": nn.Linear(4, 4), "outer": nn.Linear(4, 3)})


def descend(modules: nn.ModuleDict, optimizer: Optimizer, steps: int) -> list[float]:
    losses = []
    for _ in range(steps):
        hidden = torch.tanh(modules["inner"](modules["embed"](torch.arange(5))))
        loss = nn.functional.cross_entropy(modules["outer"](hidden), torch.tensor([0, 1, 2, 0, 1]))
        loss.backward()
        optimizer.step(0.05)
        losses.append(loss.item())
    return losses


def test_it_descends_and_forgets_the_gradients() -> None:
    modules = learner()
    losses = descend(modules, Optimizer(modules, weight_decay=0.0), 60)
    assert losses[-1] < 0.1 * losses[0]
    assert all(parameter.grad is None for parameter in modules.parameters())


def test_its_state_is_all_that_it_remembers() -> None:
    modules, other = learner(), learner()
    optimizer, again = Optimizer(modules, weight_decay=0.1), Optimizer(other, weight_decay=0.1)
    descend(modules, optimizer, 5)
    again.load({name: tensor.clone() for name, tensor in optimizer.state().items()})
    other.load_state_dict(modules.state_dict())
    assert descend(modules, optimizer, 5) == descend(other, again, 5)


def test_filters_are_smooth_first_and_see_every_colour() -> None:
    filters = cosine_filters(128, 3, 2, 16, 16)
    assert filters.shape == (128, 3, 2, 16, 16)
    assert torch.equal(filters[:, :, 0], filters[:, :, 1])
    grey, red = (
        torch.ones(3, 2, 16, 16),
        torch.ones(3, 2, 16, 16) * torch.tensor([1.0, -1.0, -1.0])[:, None, None, None],
    )
    seen_grey, seen_red = ((filters * patch).sum((1, 2, 3, 4)) for patch in (grey, red))
    assert seen_grey[0] > 0.1
    torch.testing.assert_close(seen_grey[1:], torch.zeros(127), atol=1e-4, rtol=0)
    assert seen_red[1] > 0.1
