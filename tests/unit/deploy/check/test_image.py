from __future__ import annotations

import io

from PIL import Image

from common.pb import common_pb2
from common.processor_config import read_rules
from deploy.check.image import SIDE, fresh_png
from deploy.programs import demo_folder
from encode_server.fake_media import plan
from encode_server.media.limits import MediaLimits


def test_it_is_an_image() -> None:
    image = Image.open(io.BytesIO(fresh_png()))
    image.load()
    assert (image.format, image.mode, image.size) == ("PNG", "RGB", (SIDE, SIDE))
    cell = image.crop((0, 0, 32, 32)).getcolors()
    assert cell is not None
    assert len(cell) == 1, "one colour to a visual token"


def test_no_two_are_alike() -> None:
    assert len({fresh_png() for _ in range(20)}) == 20


def test_encode_servers_can_read_its_header() -> None:
    rules = read_rules(demo_folder() / "model")
    metadata = plan(rules, MediaLimits(max_bytes=1 << 20), common_pb2.IMAGE, [fresh_png()], common_pb2.MediaOptions())
    assert metadata.rows > 0
