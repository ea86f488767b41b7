"""A router that overlooks a field: it checks the request as ever, and then goes on as if the field were not there.

Nothing of it is in the product. It is laid around the endpoints' `parse`, by the plugin in the process of the tests and
by `site/sitecustomize.py` in the routers that the tests start.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from router.api.request import Parsed
from router.problems import Problem
from tests.mutation.mutants import APIS, fields_of, without

DROP = "MUTATION_DROP"  # a mutant
RECORD = "MUTATION_RECORD"  # a file that gets a line for each field of each request
NEEDED = "needed"  # at the end of such a line: the request would be refused without the field

Parse = Callable[..., Parsed[Any]]


def overlooking(parse: Parse, api: str, *, drop: str | None, record: Path | None) -> Parse:
    """`parse` of an endpoint, as a mutant has it.

    Requests that are refused are refused as ever, so no test of validation can find the mutant. Nor does a request
    change in which another field makes no sense without the one that is dropped.
    """

    def overlook(endpoint: Any, body: Any, **options: Any) -> Parsed[Any]:
        parsed = parse(endpoint, body, **options)
        request = APIS[api].body.model_validate(body)

        def parsed_without(mutant: str) -> Parsed[Any] | None:
            try:
                return parse(endpoint, without(api, mutant, request, body), **options)
            except Problem:
                return None

        if record is not None:
            with record.open("a") as file:
                for mutant in fields_of(api, request):
                    file.write(f"{mutant}\n" if parsed_without(mutant) else f"{mutant} {NEEDED}\n")
        return (parsed_without(drop) if drop is not None else None) or parsed

    return overlook


def install() -> None:
    """As the environment says."""
    drop, record = os.environ.get(DROP), os.environ.get(RECORD)
    for name, api in APIS.items():
        if record or (drop and drop.startswith(f"{name}.")):
            api.endpoint.parse = overlooking(
                api.endpoint.parse, name, drop=drop, record=Path(record) if record else None
            )
