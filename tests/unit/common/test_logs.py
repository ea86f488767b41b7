import json
import logging

from common.logs import JsonFormatter, RateLimitedLog, RequestLog, TextFormatter


class Lines(logging.Handler):
    def __init__(self, formatter: logging.Formatter) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


def logger_into(formatter: logging.Formatter) -> tuple[logging.Logger, list[str]]:
    handler = Lines(formatter)
    logger = logging.Logger("epd.test")
    logger.addHandler(handler)
    return logger, handler.lines


def test_json_is_one_object_a_line_with_the_requests_id() -> None:
    logger, lines = logger_into(JsonFormatter("router"))
    RequestLog(logger, "chatcmpl-1").warning("took\n%d ms", 5, extra={"status": 200})
    (line,) = lines
    assert "\n" not in line
    entry = json.loads(line)
    assert entry.pop("time").endswith("+00:00")
    assert entry == {
        "level": "warning",
        "role": "router",
        "logger": "epd.test",
        "message": "took\n5 ms",
        "request_id": "chatcmpl-1",
        "status": 200,
    }


def test_json_carries_the_exception() -> None:
    logger, lines = logger_into(JsonFormatter("router"))
    try:
        raise KeyError("missing")
    except KeyError:
        logger.exception("failed")
    assert "KeyError: 'missing'" in json.loads(lines[0])["exception"]


def test_text_can_not_be_made_to_forge_a_line() -> None:
    logger, lines = logger_into(TextFormatter("encode"))
    logger.info("model %s", "x\n12:00:00.000 ERROR  encode  on fire", extra={"request_id": "a\nb"})
    assert "\n" not in lines[0]
    assert "INFO" in lines[0]
    assert "request_id='a\\nb'" in lines[0]


def test_a_flood_of_warnings_is_one_line_an_interval() -> None:
    logger, lines = logger_into(logging.Formatter("%(message)s"))
    now = [100.0]
    limited = RateLimitedLog(logger, interval=10.0, clock=lambda: now[0])
    for i in range(5):
        limited.warning("junk", "junk from %s", i)
    limited.warning("other", "another kind")
    now[0] = 110.0
    limited.warning("junk", "junk from %s", 9)
    limited.warning("other", "another kind")
    assert lines == ["junk from 0", "another kind", "junk from 9 (and 4 more like it)", "another kind"]


def test_a_message_is_not_said_twice() -> None:
    logger, lines = logger_into(TextFormatter("router"))
    logger.info("Started", extra={"color_message": "\x1b[36mStarted"})
    assert lines[0].count("Started") == 1
