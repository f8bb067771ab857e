"""The OpenAPI 3.1 document, made from the Operations. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fastlb.admin.operation import Operation, Parameter

BASE = "/api/v1"

_ERRORS = {
    "400": "The request is not what the operation takes",
    "401": "A token is demanded, and there is none or a wrong one",
    "403": "The request came from another site's page",
    "404": "There is nothing of that name",
    "409": "It cannot be at the moment; `error` says why",
    "413": "The body is too long",
    "415": "The body is no application/json",
    "429": "Too many wrong tokens from this address",
}
_READ_ERRORS = ("400", "401", "403", "404", "409", "429")


def openapi(operations: Iterable[Operation], version: str) -> dict[str, Any]:
    """The document as a plain value."""
    paths: dict[str, Any] = {
        f"{BASE}/overview": _get(
            "overview", "Everything about the instance, as of this second", "Overview"
        ),
        f"{BASE}/events": {
            "get": {
                "operationId": "events",
                "tags": ["see"],
                "summary": "Each second an `overview`; `activity` and `decision` as they come",
                "responses": {
                    "200": {
                        "description": "A stream of server-sent events",
                        "content": {"text/event-stream": {"schema": {"type": "string"}}},
                    },
                    **_errors(("401", "403", "429")),
                },
            }
        },
        f"{BASE}/series": _get(
            "series",
            "What the last minutes or the last hour looked like",
            "Series",
            (
                Parameter(
                    "scope",
                    "string",
                    "all, listener:KEY, group:NAME, target:GROUP/ADDRESS or worker:INDEX",
                ),
                Parameter("span", "string", "5m by the second, 1h by 10 s", choices=("5m", "1h")),
            ),
        ),
    }
    for one in operations:
        paths.setdefault(BASE + one.path, {})[one.method.lower()] = _operation(one)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "fastlb Admin API",
            "version": version,
            "description": "Look at a running instance of fastlb, and change it.",
        },
        "paths": paths,
        "components": {
            "schemas": {
                "Overview": {
                    "type": "object",
                    "description": (
                        "Keys end in their unit: `_s` are seconds, `_per_s` is a second, `_bytes`, "
                        "`_percent`. `p50_s`, `p95_s`, `p99_s` are of what was answered in the last "
                        "second; null where that was nothing. A listener has them where "
                        "`latency_known`: no other listener forwards to its target groups"
                    ),
                    "required": ["time", "name", "version", "totals", "listeners", "groups"],
                },
                "Series": {
                    "type": "object",
                    "required": ["step", "end", "series"],
                    "properties": {
                        "step": {"enum": [1, 10], "description": "seconds between two points"},
                        "end": {"type": "integer", "description": "of the last point, since 1970"},
                        "series": {
                            "type": "object",
                            "description": (
                                "by name: `requests`, `errors_4xx` and `errors_5xx` a second; `p50_s`, "
                                "`p95_s`, `p99_s` in seconds; `in_flight`, `connections`; of a group "
                                "that scales, `desired`, `in_service` and its first `metric`"
                            ),
                            "additionalProperties": {
                                "type": "array",
                                "items": {"type": ["number", "null"]},
                            },
                        },
                    },
                },
                "Answer": {"type": "object"},
                "Said": {
                    "type": "object",
                    "required": ["said"],
                    "properties": {"said": {"type": "string", "description": "what it will do"}},
                },
                "Error": {
                    "type": "object",
                    "required": ["error"],
                    "properties": {"error": {"type": "string"}},
                },
            },
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}, {}],
    }


def _get(
    id: str, summary: str, schema: str, parameters: Iterable[Parameter] = ()
) -> dict[str, Any]:
    return {
        "get": {
            "operationId": id,
            "tags": ["see"],
            "summary": summary,
            "parameters": [_in_query(one) for one in parameters],
            "responses": {"200": _content(schema), **_errors(_READ_ERRORS)},
        }
    }


def _operation(one: Operation) -> dict[str, Any]:
    reads = one.method == "GET"
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in one.in_path
    ]
    found: dict[str, Any] = {
        "operationId": one.id,
        "tags": [one.tag],
        "summary": one.summary,
        "parameters": parameters,
        "responses": {
            "200": _content("Answer" if reads else "Said"),
            **_errors(_READ_ERRORS if reads else tuple(_ERRORS)),
        },
    }
    if reads:
        parameters += [_in_query(parameter) for parameter in one.parameters]
    elif one.parameters:
        required = [parameter.name for parameter in one.parameters if parameter.required]
        schema: dict[str, Any] = {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                parameter.name: _schema(parameter) | {"description": parameter.about}
                for parameter in one.parameters
            },
        }
        if required:
            schema["required"] = required
        found["requestBody"] = {
            "required": bool(required),
            "content": {"application/json": {"schema": schema}},
        }
    return found


def _in_query(one: Parameter) -> dict[str, Any]:
    return {
        "name": one.name,
        "in": "query",
        "required": one.required,
        "description": one.about,
        "schema": _schema(one),
    }


def _schema(one: Parameter) -> dict[str, Any]:
    if one.kind == "strings":
        items: dict[str, Any] = {"type": "string"}
        if one.choices:
            items["enum"] = list(one.choices)
        return {"type": "array", "items": items, "minItems": 1}
    schema: dict[str, Any] = {"type": ["number", "string"] if one.kind == "amount" else one.kind}
    if one.choices:
        schema["enum"] = list(one.choices)
    if one.least is not None:
        schema["minimum"] = one.least
    if one.most is not None:
        schema["maximum"] = one.most
    return schema


def _content(schema: str) -> dict[str, Any]:
    return {
        "description": "Done" if schema == "Said" else "The answer",
        "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}},
    }


def _errors(statuses: Iterable[str]) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {status: {"description": _ERRORS[status], "content": content} for status in statuses}
