"""A collector of traces: takes what OpenTelemetry's exporters send over HTTP."""

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class Span(NamedTuple):
    """A part of a trace."""

    trace: str
    id: str
    parent: str
    name: str
    attributes: dict[str, str]


class Collector(ThreadingHTTPServer):
    """Listens on a free port, and keeps the spans that it gets."""

    def __init__(self) -> None:
        """Start to listen."""
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.spans: list[Span] = []

    def spans_of(self, task: str) -> list[Span]:
        """Return the spans that name a task by its id."""
        return [each for each in self.spans if each.attributes.get("messaging.message.id") == task]


class Handler(BaseHTTPRequestHandler):
    """Reads a request of an exporter."""

    server: Collector

    def do_POST(self) -> None:
        """Keep the spans."""
        assert self.path == "/v1/traces"
        body = self.rfile.read(int(self.headers["Content-Length"]))
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            for scope in resource.scope_spans:
                for span in scope.spans:
                    attributes = {each.key: each.value.string_value for each in span.attributes}
                    ids = (span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex())
                    self.server.spans.append(Span(*ids, span.name, attributes))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextlib.contextmanager
def collector() -> Iterator[Collector]:
    """Run a collector."""
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
