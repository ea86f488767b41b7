from __future__ import annotations

from random import Random

import torch

from deploy.demo.train.faults import all_faults, break_levels, random_faults

LEVELS = torch.arange(1.0, 25.0).view(3, 4, 2)  # three levels of four rows


def test_every_fault_does_what_it_says() -> None:
    faults = all_faults(3)
    assert set(faults) == {
        *("all zero", "0 zero", "1 zero", "2 zero", "shifted"),
        *("0 and 1 swapped", "0 and 2 swapped", "1 and 2 swapped"),
    }
    assert not faults["all zero"](LEVELS).any()
    one = faults["1 zero"](LEVELS)
    assert not one[1].any()
    assert torch.equal(one[[0, 2]], LEVELS[[0, 2]])
    assert torch.equal(faults["0 and 2 swapped"](LEVELS), LEVELS[[2, 1, 0]])
    shifted = faults["shifted"](LEVELS)
    assert torch.equal(shifted[:, 1:], LEVELS[:, :-1])
    assert torch.equal(shifted[:, 0], LEVELS[:, -1])


def test_each_sample_gets_its_own() -> None:
    batch = torch.stack([LEVELS, LEVELS + 100], dim=1)
    assert break_levels(batch, [None, None]) is batch
    broken = break_levels(batch, [None, "all zero"])
    assert torch.equal(broken[:, 0], LEVELS)
    assert not broken[:, 1].any()


def test_shares() -> None:
    assert set(random_faults(Random(0), 50, 0.0, 3)) == {None}
    some = random_faults(Random(0), 4000, 0.2, 3)
    assert 700 < sum(name is not None for name in some) < 900
    assert set(some) - {None} == set(all_faults(3))
