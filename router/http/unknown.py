"""Request fields that nobody knows: tolerated, but not in silence."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence

from common.logs import RateLimitedLog
from router.metrics import RouterMetrics
from router.problems import Problem

log = logging.getLogger(__name__)

_SHOWN = 32  # in X-Ignored-Fields
_SHOWN_CHARACTERS = 2048
_REMEMBERED = 1000  # names are a stranger's text: what is kept of them is bounded
_INDEX = re.compile(r"\[\d+\]")
# What the log may show of them: words, as fields are called. Keys and tokens have digits all over, texts have spaces.
_WORD = r"[A-Za-z_]{1,38}\d{0,2}(\[\])*"
_PLAIN = re.compile(rf"{_WORD}(\.{_WORD}){{0,7}}")


class UnknownFields:
    """Args:
    strict: they are refused.
    metrics: counts them.
    """

    def __init__(self, *, strict: bool, metrics: RouterMetrics) -> None:
        self._strict = strict
        self._metrics = metrics
        self._warn = RateLimitedLog(log)
        self._logged: set[int] = set()  # hashes of names, which may be long

    def note(self, paths: Sequence[str], request_id: str) -> dict[str, str]:
        """Counts the unknown fields of a request, and logs those that are new; the header that tells the client.

        Raises:
            Problem: 400, if there are any and they are not tolerated.
        """
        if not paths:
            return {}
        self._metrics.ignored_fields.inc(len(paths))
        if self._strict:
            message = f"{paths[0]}: this server does not know this field"
            raise Problem(400, message, param=paths[0], code="unknown_parameter")
        self._log({_INDEX.sub("[]", path) for path in paths[:_SHOWN]}, request_id)
        shown = ", ".join(map(_escape, paths[:_SHOWN]))
        return {"x-ignored-fields": shown[:_SHOWN_CHARACTERS].rstrip()}

    def _log(self, names: set[str], request_id: str) -> None:
        """Each name once. Those of a line that was left out for its rate are new when they come again."""
        new = {name for name in names if hash(name) not in self._logged}
        if not new or len(self._logged) + len(new) > _REMEMBERED:
            return
        plain = sorted(filter(_PLAIN.fullmatch, new))
        odd = len(new) - len(plain)
        told = ", ".join([*plain, *([f"{odd} with names that are no words"] if odd else [])])
        message = "a request has unknown fields, which are ignored: %s"
        if self._warn.warning("unknown", message, told, extra={"request_id": request_id}):
            self._logged.update(map(hash, new))


def _escape(path: str) -> str:
    """A name as a header field can carry it: no spaces around it, and only what ASCII can print."""
    return path.strip().encode("unicode_escape").decode("ascii") or '""'
