import json
import logging

from common.logs import JsonFormatter, LibraryLimit, RateLimitedLog, RequestLog, TextFormatter, whereabouts


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


def test_a_limited_line_keeps_its_fields_and_its_stack() -> None:
    logger, lines = logger_into(JsonFormatter("encode"))
    limited = RateLimitedLog(logger)
    for number in range(3):
        try:
            raise ValueError("broke")
        except ValueError as error:
            limited.error("kind", "number %d", number, trace=error, extra={"request_id": f"r{number}"})
    (line,) = map(json.loads, lines)
    assert (line["level"], line["message"], line["request_id"]) == ("error", "number 0", "r0")
    assert "ValueError: broke" in line["exception"]


def test_where_an_error_comes_from_is_told_without_what_it_says() -> None:
    def parse(text: str) -> int:
        return int(text)

    try:
        parse("a secret prompt")
    except ValueError as error:
        told = whereabouts(error)
    assert told.startswith("ValueError at common/test_logs.py:")
    assert " parse < common/test_logs.py:" in told
    assert "secret" not in told


def test_libraries_may_warn_once_an_interval_and_ours_as_they_like() -> None:
    now = [0.0]
    handler = Lines(logging.Formatter("%(name)s %(message)s"))
    handler.addFilter(LibraryLimit(interval=10.0, clock=lambda: now[0]))
    for _ in range(3):
        for name in ("uvicorn.error", "router.app"):
            for level in (logging.INFO, logging.WARNING):
                handler.handle(logging.makeLogRecord({"name": name, "levelno": level, "msg": "%s%%", "args": (level,)}))
    assert handler.lines.count("router.app 30%") == handler.lines.count("router.app 20%") == 3
    assert handler.lines.count("uvicorn.error 20%") == 3
    assert handler.lines.count("uvicorn.error 30%") == 1
    now[0] = 10.0
    handler.handle(logging.makeLogRecord({"name": "uvicorn.error", "levelno": 30, "msg": "%s%%", "args": (30,)}))
    assert handler.lines[-1] == "uvicorn.error 30% (and 2 more like it)"


def test_kinds_without_end_are_not_remembered_without_end() -> None:
    limit = LibraryLimit(clock=lambda: 0.0)
    for number in range(5000):
        limit.filter(logging.makeLogRecord({"name": "asyncio", "levelno": 40, "msg": f"task {number} failed"}))
    assert len(limit._limiter._silent_until) <= 1000
