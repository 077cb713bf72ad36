"""Telemetry: structured logs and metrics.

Owns the log formatter (one for structlog and the standard library), the names of all metrics, the HTTP endpoint
that Prometheus scrapes, and the check of the clocks around a process. Does not own the logged and counted events:
tasks and services do.
Invariants: no payload, secret or personal data in a log; a metric's labels are task, queue, operation or outcome,
never an id.
"""
