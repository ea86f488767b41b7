from __future__ import annotations

from router.model import SamplingDefaults


def test_sampling_defaults() -> None:
    greedy = SamplingDefaults.of({"do_sample": False, "temperature": 0.7})
    assert greedy.temperature == 0
    published = SamplingDefaults.of({"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20})
    assert published == SamplingDefaults(temperature=0.7, top_p=0.8, top_k=20, min_p=0.0, repetition_penalty=1.0)
    assert SamplingDefaults.of({}) == SamplingDefaults(
        temperature=1.0, top_p=1.0, top_k=0, min_p=0.0, repetition_penalty=1.0
    )
