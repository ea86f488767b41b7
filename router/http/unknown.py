"""Request fields that nobody knows: tolerated, but not in silence."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence

from router.metrics import RouterMetrics
from router.problems import Problem

log = logging.getLogger(__name__)

_SHOWN = 32  # in X-Ignored-Fields
_SHOWN_CHARACTERS = 2048
_LOGGED = 1000  # names are a stranger's text: what is remembered of them is bounded
_INDEX = re.compile(r"\[\d+\]")


class UnknownFields:
    """Args:
    strict: they are refused.
    metrics: counts them.
    """

    def __init__(self, *, strict: bool, metrics: RouterMetrics) -> None:
        self._strict = strict
        self._metrics = metrics
        self._logged: set[str] = set()

    def note(self, paths: Sequence[str]) -> dict[str, str]:
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
        for name in {_INDEX.sub("[]", path) for path in paths[:_SHOWN]} - self._logged:
            if len(self._logged) < _LOGGED:
                self._logged.add(name)
                log.warning("requests have an unknown field, which is ignored: %.100r", name)
        shown = ", ".join(map(_escape, paths[:_SHOWN]))
        return {"x-ignored-fields": shown[:_SHOWN_CHARACTERS].rstrip()}


def _escape(path: str) -> str:
    """A name as a header field can carry it: no spaces around it, and only what ASCII can print."""
    return path.strip().encode("unicode_escape").decode("ascii") or '""'
