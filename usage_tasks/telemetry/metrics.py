"""Every metric of the system; `serving` shows them.

Right under prefork when PROMETHEUS_MULTIPROC_DIR is in the environment before the process starts: prometheus_client
looks at it on import. Source: https://prometheus.github.io/client_python/multiprocess/
"""

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

from usage_tasks.telemetry.multiprocess import prepare_directory

prepare_directory()  # a metric without labels opens its file as it is declared

TASK_SECONDS: Final = Histogram(
    "usage_task_duration_seconds",
    "How long a task ran.",
    ["task", "outcome"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 240),
)
STRIPE_CALL_SECONDS: Final = Histogram(
    "usage_stripe_call_duration_seconds", "How long a call to Stripe took.", ["operation", "outcome"]
)
WEBHOOK_SECONDS: Final = Histogram(
    "usage_webhook_duration_seconds",
    "How long the receiver took from a request's head to its answer; its count is that of the answers.",
    ["endpoint", "outcome"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
ROWS: Final = Counter("usage_rows", "What the tasks did, in rows, by the summary's own words.", ["task", "what"])
ACCESS_REFUSED: Final = Counter("usage_access_refused", "How often an actor asked for what it may not do.", ["task"])

SNAPSHOT_WRITTEN_AT: Final = Gauge(
    "usage_balance_snapshot_written_timestamp_seconds",
    "When the balances in Redis were last brought up to date: time() minus this is the snapshot's age.",
    multiprocess_mode="max",
)
SNAPSHOT_RUNS: Final = Counter(
    "usage_balance_snapshot_runs", "How bringing the balances in Redis up to date ended.", ["outcome"]
)

CLOCK_SKEW: Final = Gauge(
    "usage_clock_skew_seconds",
    "By how much a peer's clock was ahead of this host's when it was last read; half of the round trip is taken off.",
    ["peer"],
    multiprocess_mode="mostrecent",
)
CLOCK_JUMPS: Final = Counter(
    "usage_clock_jumps", "How often a clock went by more than 2 s more or less than time passed.", ["clock"]
)

BROKER_WAITS: Final = Counter(
    "usage_broker_waits",
    "How often a worker or a beat began to wait for a broker that was away or answered with an error.",
    ["process", "answer"],
)
BREAKER_OPENINGS: Final = Counter(
    "usage_stripe_breaker_openings", "How often Stripe was taken to be away after failures in a row."
)
STRIPE_CLOCK: Final = Gauge(
    "usage_stripe_clock_ahead_seconds",
    "How far this machine's clock is ahead of Stripe's, by Stripe's latest answer; negative where it is behind.",
    multiprocess_mode="mostrecent",
)
WEBHOOK_CLOCK: Final = Gauge(
    "usage_webhook_clock_ahead_seconds",
    "How far the receiver's clock was ahead of the latest signed event that it refused for its time.",
    multiprocess_mode="mostrecent",
)
METER_DRIFT: Final = Counter(
    "usage_meter_drift", "Accounts that a drift report found astray, by what differs.", ["what"]
)
QUARANTINED: Final = Gauge(
    "usage_quarantined_reports",
    "How many refused reports wait to be released or dropped, as the latest tick of the ledger job counted them.",
    multiprocess_mode="mostrecent",
)
VERIFY_OFFENDERS: Final = Gauge(
    "usage_verify_offenders",
    "How many rows offend against an invariant, as the latest verification found.",
    ["check"],
    multiprocess_mode="mostrecent",
)
VERIFIED_AT: Final = Gauge(
    "usage_verify_ended_timestamp_seconds",
    "When the latest verification ended, clean or not.",
    multiprocess_mode="mostrecent",
)
