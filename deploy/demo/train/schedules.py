"""What rises and falls in the course of the training, by step of `TOTAL_STEPS`."""

from __future__ import annotations

import math

import numpy as np

from deploy.demo.train.stages import TOTAL_STEPS

_WARM = 140
_COLD = 0.02
_COSINE_ENDS, _COSINE_LEFT = 6400, 5300
# Then in lines, (step, share): up for something new (stages._MORE_PAIRS) and down to settle all of it, twice.
_AFTERWARDS = ((5300, 0.3), (6500, 0.3), (7400, 0.0), (7500, 0.12), (TOTAL_STEPS, 0.0))
_STEPS, _SHARES = zip(*_AFTERWARDS, strict=True)

_HINTS_FULL_UNTIL, _HINTS_UNTIL = 3300, 5800

_FAULTS_FROM, _FAULTS_UNTIL = 4100, 6000
_FAULT_SHARES = (0.20, 0.10)  # of the samples: then, and from the end of that on


def rate(step: float) -> float:
    """The learning rate, as a share of the largest: up in a line, down along half a cosine, then up and down twice."""
    if step < _WARM:
        return _COLD + (1 - _COLD) * step / _WARM
    if step > _COSINE_LEFT:
        share = float(np.interp(step, _STEPS, _SHARES))
    else:
        share = 0.5 * (1 + math.cos(math.pi * (step - _WARM) / (_COSINE_ENDS - _WARM)))
    return _COLD + (1 - _COLD) * share


def hint_weight(step: float) -> float:
    """Of the hints in the loss: falls to nothing, and in the end only answers count."""
    return min(1.0, max(0.0, (_HINTS_UNTIL - step) / (_HINTS_UNTIL - _HINTS_FULL_UNTIL)))


def fault_share(step: float) -> float:
    """How many of the samples have broken deepstack levels."""
    if step < _FAULTS_FROM:
        return 0.0
    first, last = _FAULT_SHARES
    return max(last, first + (last - first) * (step - _FAULTS_FROM) / (_FAULTS_UNTIL - _FAULTS_FROM))
