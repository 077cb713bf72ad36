"""How the system shows what it does: structured logs and metrics.

Owns the log formatter (structlog and the standard library's through one), the names of all metrics, the HTTP endpoint
that Prometheus scrapes, and which of the clocks around a process is wrong. Does not own what is logged or counted:
tasks and services say so.
Invariants: no payload, secret or personal data in a log; a metric's labels are task, queue, operation or outcome,
never an id.
"""
