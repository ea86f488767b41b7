"""The router that is checked, over HTTP."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import httpx

from deploy.check.image import fresh_data_uri
from deploy.check.trial import Failure, Trial, problem_with
from deploy.remote import CONNECT_S, explain, printable, tls

_PATIENCE_S = 10.0  # for what a router answers by itself
_MAX_TOKENS = 8
_GATEWAY = (502, 504)  # statuses of proxies


class CheckError(Exception):
    """The router can't be asked; the message says why, `advice` what to do."""

    def __init__(self, message: str, advice: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.advice = advice


class Router:
    """All requests go over one connection, so that one process of a router with several answers all of them.

    Args:
        url: base of its paths.
        headers: with the API key.
        timeout: seconds that a trial may take.
        transport: the network.
    """

    def __init__(
        self, url: str, headers: Mapping[str, str], timeout: float, *, transport: httpx.BaseTransport | None = None
    ) -> None:
        self._timeout = timeout
        self._run = secrets.token_hex(4)
        self._count = 0
        self._client = httpx.Client(
            base_url=url,
            headers={**headers, "user-agent": "epd-check"},
            timeout=httpx.Timeout(timeout, connect=min(CONNECT_S, timeout)),
            limits=httpx.Limits(max_connections=1),
            verify=tls(),
            transport=transport,
            trust_env=False,
        )

    def __enter__(self) -> Router:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._client.close()

    def waiting_for(self) -> list[str]:
        """What is still missing before text and images would succeed. Raises CheckError."""
        body = self._get("/ready", 200, 503)
        missing = body.get("waiting_for")
        if not isinstance(body.get("ready"), bool) or not isinstance(missing, list):
            raise CheckError("/ready does not say whether it is ready", "Is this a router of epd-serve?")
        return [] if body["ready"] else [printable(str(entry)) for entry in missing] or ["it does not say what"]

    def version(self) -> str:
        """Raises CheckError."""
        return printable(str(self._get("/version", 200).get("version")))

    def servers(self) -> list[dict[str, Any]]:
        """As `/servers` lists them. Raises CheckError."""
        listed = self._get("/servers", 200).get("servers")
        if not isinstance(listed, list) or not all(_is_server(entry) for entry in listed):
            raise CheckError("/servers is not a list of servers", "Are router and `epd check` of one version?")
        return listed

    def text(self, language: str) -> Trial:
        """A request without an image."""
        return self._try(f"Say OK. ({secrets.token_hex(4)})", language, None)

    def image(self, encode: str, language: str) -> Trial:
        """One with an image."""
        url = {"type": "image_url", "image_url": {"url": fresh_data_uri()}}
        return self._try([url, {"type": "text", "text": "What is this?"}], language, encode)

    def _try(self, content: Any, language: str, encode: str | None) -> Trial:
        self._count += 1
        request_id = f"epd-check-{self._run}-{self._count}"
        headers = {"x-request-id": request_id, "x-epd-language": language}
        headers |= {"x-epd-encode": encode} if encode is not None else {}
        body = {
            "messages": [{"role": "user", "content": content}],
            "max_tokens": _MAX_TOKENS,
            "temperature": 0,
            "return_timings": True,
        }
        began = time.monotonic()
        timings: Mapping[str, float] = {}
        try:
            response = self._client.post("/v1/chat/completions", json=body, headers=headers)
            failure = _failure(response, image=encode is not None)
            if failure is None:
                timings = {stage: took for stage, took in response.json()["timings"].items() if _is_number(took)}
        except httpx.RequestError as error:
            is_timeout = isinstance(error, httpx.TimeoutException)
            message = explain(error, self._timeout)
            failure = Failure(cause="timeout" if is_timeout else "unreachable", message=message)
        return Trial(
            language=language,
            encode=encode,
            request_id=request_id,
            seconds=time.monotonic() - began,
            timings=timings,
            failure=failure,
        )

    def _get(self, path: str, *good: int) -> dict[str, Any]:
        timeout = min(_PATIENCE_S, self._timeout)
        try:
            response = self._client.get(path, timeout=httpx.Timeout(timeout, connect=min(CONNECT_S, timeout)))
        except httpx.RequestError as error:
            advice = "Does the router run, and is this its address? `epd router` and `epd serve` log where they listen."
            raise CheckError(explain(error, timeout), advice) from None
        body = _json(response)
        if response.status_code in good and isinstance(body, dict):
            return body
        raise _refusal(path, response, body)


def _refusal(path: str, response: httpx.Response, body: Any) -> CheckError:
    """`path` has an answer that is none."""
    status = response.status_code
    said = _error_of(body).get("message")
    if status == httpx.codes.UNAUTHORIZED:
        given = "authorization" in response.request.headers
        message = "it does not accept this API key" if given else "it wants an API key"
        return CheckError(f"HTTP 401: {message}", "Give one of the router's keys with --api-key-file or --api-key.")
    if status in _GATEWAY:
        return CheckError(f"HTTP {status}: a proxy answers, the router behind it does not", "Look at the router.")
    if status == httpx.codes.NOT_FOUND:
        advice = "Is this a router of epd-serve, and not older than this `epd check`?"
        return CheckError(f"HTTP 404: it has no {path}", advice)
    if response.is_redirect:
        return CheckError(
            f"HTTP {status}: it sends us to {response.headers.get('location')}", "Check that URL instead."
        )
    if status >= 400 or said:
        return CheckError(f"{path}: HTTP {status}: {printable(str(said or response.reason_phrase))}")
    return CheckError(f"{path} answers with something that is not a JSON object", "Is this a router of epd-serve?")


def _failure(response: httpx.Response, *, image: bool) -> Failure | None:
    body = _json(response)
    if response.status_code == httpx.codes.OK:
        problem = problem_with(body, image=image)
        return Failure(cause="answer", message=printable(problem), status=200) if problem else None
    error = _error_of(body)
    message = str(error.get("message") or response.text or response.reason_phrase)
    param = error["param"] if isinstance(error.get("param"), str) else None
    return Failure(
        cause="refused",
        message=printable(message[:1000]).removeprefix(f"{param}: "),
        status=response.status_code,
        param=param,
    )


def _json(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        return None


def _error_of(body: Any) -> dict[str, Any]:
    error = body.get("error") if isinstance(body, dict) else None
    return error if isinstance(error, dict) else {}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_server(entry: object) -> bool:
    return (
        isinstance(entry, dict)
        and entry.get("role") in ("encode", "language")
        and isinstance(entry.get("address"), str)
        and entry["address"].isascii()
        and entry["address"].isprintable()
        and isinstance(entry.get("ready"), bool)
    )
