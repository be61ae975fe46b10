"""Spans as OpenTelemetry's protocol has them: the messages of OTLP, as bytes, and what is answered to them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Status
from opentelemetry.proto.trace.v1.trace_pb2 import Span as SpanMessage

from tailrace.monitor.tracing.spans import Span
from tailrace.version import VERSION

_HAS_IS_REMOTE: Final = 0x100
_IS_REMOTE: Final = 0x200
_SCOPE: Final = InstrumentationScope(name="tailrace", version=VERSION)


def encode(groups: Iterable[tuple[Mapping[str, Any], Iterable[Span]]]) -> bytes:
    """Return the bytes of one request. groups: attributes of a resource, and its spans."""
    request = ExportTraceServiceRequest(
        resource_spans=[
            ResourceSpans(
                resource=Resource(attributes=_attributes(resource)),
                scope_spans=[ScopeSpans(scope=_SCOPE, spans=[_message(span) for span in spans])],
            )
            for resource, spans in groups
        ]
    )
    return bytes(request.SerializeToString())


def rejected_in(body: bytes) -> tuple[int, str]:
    """Return how many spans an answer says were not taken, and why; none where it says nothing that can be read."""
    try:
        partial = ExportTraceServiceResponse.FromString(body).partial_success
    except DecodeError:  # a proxy's page, say: with a 200 all is well
        return 0, ""
    return max(partial.rejected_spans, 0), partial.error_message


def _message(span: Span) -> SpanMessage:
    """Return one span."""
    return SpanMessage(
        trace_id=span.trace_id,
        span_id=span.span_id,
        parent_span_id=span.parent_id,
        trace_state=span.state,
        flags=span.flags | _HAS_IS_REMOTE | (_IS_REMOTE if span.is_remote else 0),
        name=span.name,
        kind=span.kind,  # type: ignore[arg-type]
        start_time_unix_nano=span.start_ns,
        end_time_unix_nano=span.end_ns,
        attributes=_attributes(span.attributes),
        links=[SpanMessage.Link(trace_id=trace, span_id=linked) for trace, linked in span.links],
        status=Status(code=Status.STATUS_CODE_ERROR, message=span.error) if span.error else None,
    )


def _attributes(found: Mapping[str, Any]) -> list[KeyValue]:
    """Return attributes."""
    return [KeyValue(key=name, value=_value(value)) for name, value in found.items()]


def _value(value: Any) -> AnyValue:
    """Return the value of an attribute: a text, a number, or a list of such."""
    if isinstance(value, str):
        return AnyValue(string_value=value)
    if isinstance(value, list):
        return AnyValue(array_value=ArrayValue(values=list(map(_value, value))))
    return AnyValue(int_value=value)
