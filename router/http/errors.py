"""Errors of requests that reach no endpoint, in the shape of the API that their path belongs to."""

from __future__ import annotations

from starlette.responses import Response

from router.answer.anthropic import error_body
from router.problems import Problem


def is_anthropic(path: str) -> bool:
    """Whether it is one of Anthropic's API, all others being OpenAI's or our own."""
    return path == "/v1/messages" or path.startswith("/v1/messages/")


def error_response(problem: Problem, path: str, request_id: str) -> Response:
    body = error_body(problem, request_id) if is_anthropic(path) else problem.body()
    return Response(body, status_code=problem.status, headers={**problem.headers, "content-type": "application/json"})
