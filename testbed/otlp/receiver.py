"""A collector for tests: takes OTLP over HTTP as its makers define it, and tells what came.

The messages are decoded with the official package `opentelemetry-proto`; one that can't be decoded,
or that lacks what the protocol wants, is refused and stands in `faults`. It prints `port N`, then
serves until it is ended. GET /seen gives everything that came as one JSON document.

    receiver.py [PORT]
"""

import gzip
import http.server
import json
import sys
import threading

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

MESSAGES = {
    "/v1/traces": (ExportTraceServiceRequest, ExportTraceServiceResponse),
    "/v1/metrics": (ExportMetricsServiceRequest, ExportMetricsServiceResponse),
    "/v1/logs": (ExportLogsServiceRequest, ExportLogsServiceResponse),
}


def value(any_value):
    kind = any_value.WhichOneof("value")
    if kind is None:
        return None
    found = getattr(any_value, kind)
    if kind in ("array_value", "kvlist_value", "bytes_value"):
        return str(found)
    return found


def attributes(pairs):
    read = {pair.key: value(pair.value) for pair in pairs}
    if len(read) != len(pairs):
        raise ValueError(f"an attribute stands there twice: {[pair.key for pair in pairs]}")
    return read


def spans(message):
    for of in message.resource_spans:
        resource = attributes(of.resource.attributes)
        for scope in of.scope_spans:
            for span in scope.spans:
                if len(span.trace_id) != 16 or len(span.span_id) != 8 or not span.name:
                    raise ValueError(f"a span without its ids or name: {span}")
                if not 0 < span.start_time_unix_nano <= span.end_time_unix_nano:
                    raise ValueError(f"a span that ends before it begins: {span}")
                yield {
                    "trace_id": span.trace_id.hex(),
                    "span_id": span.span_id.hex(),
                    "parent_span_id": span.parent_span_id.hex(),
                    "name": span.name,
                    "kind": Span.SpanKind.Name(span.kind),
                    "status": Status.StatusCode.Name(span.status.code),
                    "start": span.start_time_unix_nano,
                    "end": span.end_time_unix_nano,
                    "attributes": attributes(span.attributes),
                    "links": [{"trace_id": link.trace_id.hex()} for link in span.links],
                    "resource": resource,
                }


def logs(message):
    for of in message.resource_logs:
        resource = attributes(of.resource.attributes)
        for scope in of.scope_logs:
            for record in scope.log_records:
                yield {
                    "body": value(record.body),
                    "severity": record.severity_text,
                    "trace_id": record.trace_id.hex(),
                    "span_id": record.span_id.hex(),
                    "attributes": attributes(record.attributes),
                    "resource": resource,
                }


def metrics(message):
    for of in message.resource_metrics:
        resource = attributes(of.resource.attributes)
        for scope in of.scope_metrics:
            for metric in scope.metrics:
                yield {"name": metric.name, "unit": metric.unit, "resource": resource}


class Seen:
    """What came. Of metrics, each name of each resource once."""

    def __init__(self):
        self.lock = threading.Lock()
        self.told = {"spans": [], "logs": [], "metrics": [], "faults": [], "requests": 0}
        self.known = set()

    def take(self, path, message):
        if path == "/v1/traces":
            kind, items = "spans", list(spans(message))
        elif path == "/v1/logs":
            kind, items = "logs", list(logs(message))
        else:
            kind, items = "metrics", list(metrics(message))
        with self.lock:
            self.told["requests"] += 1
            for item in items:
                if kind == "metrics":
                    key = json.dumps(item, sort_keys=True)
                    if key in self.known:
                        continue
                    self.known.add(key)
                self.told[kind].append(item)

    def fault(self, why):
        with self.lock:
            self.told["faults"].append(why)

    def document(self):
        with self.lock:
            return json.dumps(self.told).encode()


SEEN = Seen()


class Collector(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, status, kind, body):
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        if self.path == "/seen":
            self.answer(200, "application/json", SEEN.document())
        else:
            self.answer(404, "text/plain", b"")

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        try:
            request, response = MESSAGES[self.path]
            if self.headers["content-type"] != "application/x-protobuf":
                raise ValueError(f"content-type {self.headers['content-type']}")
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            message = request()
            message.ParseFromString(body)
            SEEN.take(self.path, message)
        except (KeyError, ValueError, DecodeError) as why:
            SEEN.fault(f"{self.path}: {why!r}")
            self.answer(400, "text/plain", str(why).encode())
            return
        self.answer(200, "application/x-protobuf", response().SerializeToString())

    def log_message(self, *_):
        pass


def main():
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Collector)
    server.daemon_threads = True
    print(f"port {server.server_address[1]}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
