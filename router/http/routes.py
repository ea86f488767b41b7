"""The HTTP paths."""

from __future__ import annotations

import json
import re
import uuid
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from common import __version__
from router.api.chat import ChatRequest
from router.endpoints.chat import ChatEndpoint
from router.http.exchange import Exchange
from router.problems import Problem
from router.services import Services

_REQUEST_ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"description": text}
    for status, text in (
        (400, "The request is wrong; `error.param` names the field."),
        (401, "The API key is missing or wrong."),
        (404, "There is no such model."),
        (408, "The body did not arrive in time."),
        (413, "The body is too large."),
        (429, "Too much is in progress; see Retry-After."),
        (503, "No server can do it now; see Retry-After."),
        (504, "It took too long."),
    )
}


_SCHEMAS = "#/components/schemas/{model}"


def request_schemas() -> dict[str, Any]:
    """The components of the OpenAPI document that bodies refer to: these are read by us, not by FastAPI."""
    schema = ChatRequest.model_json_schema(ref_template=_SCHEMAS)
    return {**schema.pop("$defs"), "ChatRequest": schema}


def request_id_of(request: Request) -> str:
    """The client's own X-Request-Id if it is a plain word, or a new one."""
    given = request.headers.get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


def make_routes(services: Services) -> APIRouter:
    """All paths, over `services`."""
    routes = APIRouter()

    @routes.get("/health", summary="Whether the process lives")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @routes.get(
        "/ready", summary="Whether a request would succeed now", responses={503: {"description": "It would not."}}
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

    @routes.get("/version", summary="Of this software")
    async def version() -> dict[str, str]:
        return {"version": __version__}

    @routes.get("/metrics", summary="For Prometheus")
    async def metrics() -> Response:
        return Response(generate_latest(services.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    def model_card(name: str) -> dict[str, Any]:
        card: dict[str, Any] = {"id": name, "object": "model", "created": 0, "owned_by": "epd-serve"}
        if services.fleet.model is not None:
            card["max_model_len"] = services.fleet.max_model_len
        return card

    @routes.get("/v1/models", summary="The model's names", responses={401: _ERRORS[401]})
    async def models(request: Request) -> Response:
        services.keys.salt(request.headers.get("authorization"))
        return _json({"object": "list", "data": [model_card(name) for name in services.model_names]})

    @routes.get("/v1/models/{name:path}", summary="One of them", responses={401: _ERRORS[401], 404: _ERRORS[404]})
    async def model(request: Request, name: str) -> Response:
        services.keys.salt(request.headers.get("authorization"))
        if name not in services.model_names:
            raise Problem(404, f"The model {name!r} does not exist", param="model", code="model_not_found")
        return _json(model_card(name))

    @routes.post(
        "/v1/chat/completions",
        summary="The next message of a conversation",
        responses=_ERRORS,
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": {"$ref": _SCHEMAS.format(model="ChatRequest")}}},
            }
        },
    )
    async def chat_completions(request: Request) -> Response:
        return Exchange(services, ChatEndpoint(), request, request.state.request_id)

    return routes


def _json(content: Any, status: int = 200) -> Response:
    return Response(json.dumps(content), status_code=status, media_type="application/json")
