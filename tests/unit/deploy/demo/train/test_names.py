from __future__ import annotations

from dataclasses import replace

import numpy as np

from deploy.demo.scenes.question import Case
from deploy.demo.scenes.scene import COLOURS, Background, Scene, Thing
from deploy.demo.train.names import find_names

PLAIN = Background(pattern="plain", first=(255, 255, 255), second=(255, 255, 255), period=8)
THING = Thing(shape="square", colour="blue", tint=COLOURS["blue"], x=32, y=32, radius=10)
SCENE = Scene(width=64, height=64, things=(THING,), background=PLAIN, noise=0, noise_seed=0)
WORDS = {" blue square": [7, 8]}


def test_names_end_where_their_last_token_is() -> None:
    case = Case(media=(SCENE,), questions=())
    ids = np.array([[7, 8, 1, 8, 7], [1, 7, 7, 8, 8]])
    named = find_names([case, case], ids, [None, None], WORDS.__getitem__)
    assert named.rows.tolist() == [1, 5 + 3]
    assert named.sides.tolist() == [[side // 10 for side in THING.box(64, 64)]] * 2
    assert named.twins == (False, False)


def test_twins_have_a_shape_in_common() -> None:
    other = replace(THING, colour="red", tint=COLOURS["red"], y=10)
    case = Case(media=(replace(SCENE, things=(THING, other)),), questions=())
    words = {**WORDS, " red square": [6, 8]}
    named = find_names([case], np.array([[7, 8, 6, 8]]), [None], words.__getitem__)
    assert named.twins == (True, True)


def test_where_a_name_may_mean_anything_there_is_none() -> None:
    ids = np.array([[7, 8]])
    pair, text = Case(media=(SCENE, SCENE), questions=()), Case(media=(), questions=())
    assert find_names([pair], ids, [None], WORDS.__getitem__).rows.tolist() == []
    assert find_names([text], ids, [None], WORDS.__getitem__).sides.shape == (0, 4)
    assert find_names([Case(media=(SCENE,), questions=())], ids, ["all zero"], WORDS.__getitem__).rows.tolist() == []
