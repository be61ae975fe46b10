"""An OpenAPI document from which Amazon's API Gateway makes an HTTP API: each path goes over a VPC link to a balancer.

API Gateway reads OpenAPI 3.0, and of an HTTP API paths and integrations alone; the types are in the servers' own
document.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from tailrace.deploy.upstream import Operation, Upstream
from tailrace.version import VERSION

OPENAPI: Final = "3.0.1"
ANSWER_MS_MAX: Final = 30_000
"""The longest that an HTTP API waits for an answer."""
_MEDIA: Final[dict[str, Any]] = {"application/json": {"schema": {}}}


def api_gateway_document(upstream: Upstream, listener: str, vpc_link: str) -> str:
    """Return the document as JSON. listener: the ARN of a balancer's listener; vpc_link: the id of the link to it."""
    document = {
        "openapi": OPENAPI,
        "info": {"title": "Tailrace", "version": VERSION},
        "paths": {
            each.path: {"post": _operation(each) | {"x-amazon-apigateway-integration": _way(each, listener, vpc_link)}}
            for each in upstream.operations
        },
        "x-amazon-apigateway-importexport-version": "1.0",
    }
    return msgspec.json.format(msgspec.json.encode(document)).decode() + "\n"


def _operation(operation: Operation) -> dict[str, Any]:
    return {
        "operationId": operation.name,
        "requestBody": {"required": True, "content": _MEDIA},
        "responses": {"default": {"description": "What the server answers"}},
    }


def _way(operation: Operation, listener: str, vpc_link: str) -> dict[str, Any]:
    """Return the integration: the request as it came, on the path without the stage's name."""
    return {
        "type": "http_proxy",
        "httpMethod": "POST",
        "uri": listener,
        "connectionType": "VPC_LINK",
        "connectionId": vpc_link,
        "payloadFormatVersion": "1.0",
        "timeoutInMillis": min(operation.answer_ms, ANSWER_MS_MAX),
        "requestParameters": {"overwrite:path": "$request.path"},
    }
