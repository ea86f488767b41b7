"""The HTTP paths."""

from __future__ import annotations

import json
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST

from common import __version__
from router.api.anthropic import MessagesBody, PromptBody
from router.api.chat import ChatRequest
from router.api.completions import CompletionRequest
from router.api.request import RequestModel
from router.api.responses import ResponsesBody
from router.api.tokens import DetokenizeRequest, TokenizeRequest
from router.endpoints.chat import ChatEndpoint
from router.endpoints.completions import CompletionEndpoint
from router.endpoints.endpoint import Endpoint, PromptEndpoint
from router.endpoints.messages import CountTokensEndpoint, MessagesEndpoint
from router.endpoints.responses import ResponsesEndpoint
from router.endpoints.tokenize import DetokenizeEndpoint, TokenizeEndpoint
from router.http import openapi
from router.http.exchange import Exchange
from router.http.servers import servers_json
from router.problems import Problem
from router.services import Services

_OBJECT = {"type": "object"}
_JSON = {"application/json": _OBJECT}
# Of no type: to some readers each event is an object (as in OpenAPI 3.2), to others all of them are one string.
_JSON_OR_EVENTS = {**_JSON, "text/event-stream": {"description": "server-sent events"}}
_TEXT = {"text/plain": {"type": "string"}}

# Bodies that paths take, for the OpenAPI document.
BODIES: tuple[type[RequestModel], ...] = (
    ChatRequest,
    CompletionRequest,
    ResponsesBody,
    MessagesBody,
    PromptBody,
    TokenizeRequest,
    DetokenizeRequest,
)


def make_routes(services: Services) -> APIRouter:
    """All paths, over `services`."""
    routes = APIRouter()

    def exchanges(
        path: str,
        summary: str,
        body: type[RequestModel],
        endpoint: Endpoint[Any] | PromptEndpoint[Any],
        *,
        error: str = "Error",
    ) -> None:
        """A path that answers with text as it is made, or at its end; or with what it knows of a prompt."""
        content = _JSON if isinstance(endpoint, PromptEndpoint) else _JSON_OR_EVENTS

        async def exchange(request: Request) -> Response:
            return Exchange(services, endpoint, request, request.state.request_id)

        routes.post(
            path,
            summary=summary,
            operation_id=path.strip("/").replace("/", "_"),
            responses=openapi.answers("The answer, or a stream of it.", content, *openapi.OF_GENERATION, error=error),
            response_class=Response,
            openapi_extra=openapi.body(body),
        )(exchange)

    exchanges("/v1/chat/completions", "The next message of a conversation", ChatRequest, ChatEndpoint())
    exchanges("/v1/completions", "What follows a prompt", CompletionRequest, CompletionEndpoint())
    exchanges("/tokenize", "The tokens of a prompt or a conversation", TokenizeRequest, TokenizeEndpoint())
    exchanges("/detokenize", "The text of tokens", DetokenizeRequest, DetokenizeEndpoint())
    exchanges("/v1/responses", "The next items of a conversation", ResponsesBody, ResponsesEndpoint())
    exchanges(
        "/v1/messages", "The next turn of a conversation", MessagesBody, MessagesEndpoint(), error="AnthropicError"
    )
    exchanges(
        "/v1/messages/count_tokens", "The length of a prompt", PromptBody, CountTokensEndpoint(), error="AnthropicError"
    )

    _add_stored_responses(routes, services)
    _add_models(routes, services)
    _add_servers(routes, services)
    _add_state(routes, services)
    return routes


def _add_stored_responses(routes: APIRouter, services: Services) -> None:
    async def stored_response(request: Request) -> Response:
        services.keys.salt(request.headers)
        raise Problem(404, "responses are not stored here, so none can be found", code="not_found")

    for method in ("GET", "DELETE"):
        routes.add_api_route(
            "/v1/responses/{response_id}",
            stored_response,
            methods=[method],
            operation_id=f"{method.lower()}_v1_responses",
            summary="Not there: nothing is stored",
            responses=openapi.answers("Never.", _JSON, 401, 404),
            response_class=Response,
            openapi_extra=openapi.parameter("response_id", "path", {"type": "string"}, "any"),
        )


def _add_models(routes: APIRouter, services: Services) -> None:
    def card(name: str) -> dict[str, Any]:
        shown: dict[str, Any] = {"id": name, "object": "model", "created": 0, "owned_by": "epd-serve"}
        if services.fleet.model is not None:
            shown["max_model_len"] = services.fleet.max_model_len
        return shown

    @routes.get(
        "/v1/models",
        summary="The model's names",
        responses=openapi.answers("All of them.", _JSON, 401),
        response_class=Response,
    )
    async def models(request: Request) -> Response:
        services.keys.salt(request.headers)
        return _json({"object": "list", "data": [card(name) for name in services.model_names]})

    @routes.get(
        "/v1/models/{model:path}",
        summary="One of them",
        responses=openapi.answers("It exists.", _JSON, 401, 404),
        response_class=Response,
        openapi_extra=openapi.parameter("model", "path", {"type": "string"}, "one of the names"),
    )
    async def one_model(request: Request) -> Response:
        services.keys.salt(request.headers)
        name = request.path_params["model"]
        if name not in services.model_names:
            raise Problem(404, f"The model {name!r} does not exist", param="model", code="model_not_found")
        return _json(card(name))


def _add_servers(routes: APIRouter, services: Services) -> None:
    @routes.get(
        "/servers",
        summary="The servers behind this router, as this process of it sees them",
        responses=openapi.answers("All of them.", _JSON, 401),
        response_class=Response,
    )
    async def servers(request: Request) -> Response:
        services.keys.salt(request.headers)
        return _json(servers_json(services.fleet))


def _add_state(routes: APIRouter, services: Services) -> None:
    """For those who run the server: none of these needs a key."""

    @routes.get(
        "/health",
        summary="Whether the process lives",
        responses=openapi.answers("It does.", _JSON),
        response_class=Response,
    )
    async def health() -> Response:
        return _json({"status": "ok"})

    @routes.get(
        "/ready",
        summary="Whether a request would succeed now",
        responses={
            **openapi.answers("It would.", _JSON, 400),
            503: {"description": "It would not.", "content": _READY},
        },
        response_class=Response,
        openapi_extra=openapi.parameter(
            "for", "query", {"enum": ["text", "image"], "default": "image"}, "what the request would hold"
        ),
    )
    async def ready(request: Request) -> Response:
        wanted = request.query_params.get("for", "image")
        if wanted not in ("text", "image"):
            raise Problem(400, "for has to be text or image", param="for")
        state = services.fleet.readiness()
        waiting_for = ("the end: this router is shutting down",) if services.gate.draining else state.waiting_for
        good = (state.text if wanted == "text" else state.image) and not services.gate.draining
        content = {"ready": good, "text": state.text, "image": state.image, "waiting_for": waiting_for}
        return _json(content, 200 if good else 503)

    @routes.get(
        "/version",
        summary="Of this software",
        responses=openapi.answers("The version.", _JSON),
        response_class=Response,
    )
    async def version() -> Response:
        return _json({"version": __version__})

    @routes.get(
        "/metrics",
        summary="For Prometheus",
        responses=openapi.answers("All of the router's.", _TEXT),
        response_class=Response,
    )
    async def metrics() -> Response:
        return Response(services.metrics.exposition(), media_type=CONTENT_TYPE_LATEST)


_READY = {"application/json": {"schema": _OBJECT}}


def _json(content: Any, status: int = 200) -> Response:
    return Response(json.dumps(content), status_code=status, media_type="application/json")
