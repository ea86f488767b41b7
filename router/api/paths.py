"""Where the fields of a request stood before it was translated."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from router.problems import Problem


class Paths:
    """Names the fields of a chat completion as the client did, who wrote to another API.

    Args:
        origins: the client's own paths, by paths of the chat completion; what lies below one lies likewise below the
            other.
        before: of an earlier translation, whose result these origins are of.
    """

    def __init__(self, origins: Mapping[str, str], before: Paths | None = None) -> None:
        self._origins = origins
        self._before = before

    def origin(self, path: str) -> str:
        """The client's path: "messages[1].content[0]" may be "input[2].content[0]". A path without an origin stays."""
        ends = [i for i, character in enumerate(path) if character in ".["]
        for end in (len(path), *reversed(ends)):
            if (origin := self._origins.get(path[:end])) is not None:
                path = origin + path[end:]
                break
        return path if self._before is None else self._before.origin(path)

    def after(self, before: Paths) -> Paths:
        """Those of both translations."""
        return Paths(self._origins, before)

    def restore(self, problem: Problem) -> Problem:
        """The same problem in the client's terms."""
        if problem.param is None or (origin := self.origin(problem.param)) == problem.param:
            return problem
        message = problem.message
        if message.startswith(problem.param):
            message = origin + message[len(problem.param) :]
        return Problem(problem.status, message, param=origin, code=problem.code)

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Problems of the block leave it in the client's terms."""
        try:
            yield
        except Problem as problem:
            raise self.restore(problem) from None


UNCHANGED = Paths({})
