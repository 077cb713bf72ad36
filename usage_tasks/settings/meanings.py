"""The purpose of each key and each variable, for docs/reference/settings.md; settings/model.py has types and defaults.

`tests/docs/test_reference.py` fails if a key or a variable has no line here.
"""

from collections.abc import Mapping
from typing import Final

from usage_tasks.settings.tree import KeyPath

KEYS: Final[Mapping[KeyPath, str]] = {
    ("controllerSchedule",): "how often the ledger job `usage.reconcile` runs: it posts usage and announces limits",
    ("resetUsageSchedule",): "how often the reset job `usage.reset` runs: it ends the billing cycles that are due",
    ("billingSyncSchedule",): "how often `billing.sync` decides the meter reports for Stripe",
    ("stripeBackfillSchedule",): "how often events that no webhook brought are fetched from Stripe's lists",
    ("invoiceReconcileSchedule",): "how often invoices are compared with Stripe's list",
    (
        "heartbeatGrace",
    ): "stop charging a running session this long after its last report; report it more often than that",
    ("maxSessionLifetime",): "stop charging a running session this long after its start",
    ("creditsPerMinuteByWorkspaceClass",): "the price list; a change holds from the next `usage-tasks migrate` on",
    (
        "creditsPerMinuteByWorkspaceClassAndState",
    ): "the prices of sessions that do not run; a report of a state without a price is quarantined",
    ("workspaceClassRules",): "minimum charges and rounding steps of classes, in each state",
    ("defaultSpendingLimit",): "the spending limits of accounts for which nobody has set one",
    ("defaultSpendingLimit", "forTeams"): "the limit of a team, in credits",
    ("defaultSpendingLimit", "forUsers"): "the limit of a user, and of the first team of a user",
    ("defaultSpendingLimit", "minForUsersOnStripe"): "the least limit of a user whose account changes to Stripe",
    ("limitThresholds",): "the percents of the limit that are announced",
    ("hardLimitGrace",): "how far above the spending limit the hard limit is",
    ("hardLimitGrace", "credits"): "the grace in credits",
    ("hardLimitGrace", "percent"): "the grace in percent of the spending limit",
    ("dunning",): "how failed payments are followed up",
    ("dunning", "enabled"): "follow up failed payments",
    ("dunning", "graceDays"): "days from the failed payment to the first reminder",
    ("dunning", "reminderDays"): "days between reminders",
    ("dunning", "suspendAfterDays"): "days from the failed payment to the suspension",
    ("directoryKeyFile",): "the key of the digests of e-mails; keep it as long as the database",
    (
        "stripeCredentialsFile",
    ): "Stripe's secrets (`secretKey`, `webhookKey`, `thinWebhookKey`), read where it is called",
    ("stripePrices",): "the metered prices in Stripe; without them no account can pay through Stripe",
    ("stripePrices", "individualUsagePriceId"): "the price of user accounts, in every currency",
    ("stripePrices", "individualUsagePriceIds"): "the price of user accounts, for each currency",
    ("stripePrices", "teamUsagePriceId"): "the price of team accounts, in every currency",
    ("stripePrices", "teamUsagePriceIds"): "the price of team accounts, for each currency",
    ("stripeApiBase",): "a stand-in that is called in place of Stripe",
    ("stripeMeterEventName",): "the meter in Stripe; its formula must be `last`",
    ("stripeCallsPerSecond",): "the most calls to Stripe in a second, by all workers; Stripe takes 100, a sandbox 25",
    ("server",): "the webhook receiver",
    ("server", "address"): "the address on which the receiver listens",
    ("server", "port"): "the port on which the receiver listens",
    ("server", "trustedProxies"): "the proxies in front of the receiver; without them all senders count as one address",
    ("server", "refusalsPerMinute"): "how many refused requests an address may send in a minute",
    ("database",): "the database",
    ("database", "url"): "the PostgreSQL server or servers, with any option of libpq",
    ("redis",): "the broker; it also keeps locks, the pace of calls to Stripe and published balances",
    ("redis", "prefix"): "the beginning of each key in Redis: installations that share a Redis need one each",
    ("installation",): "the id of the installation; receiver and client refuse a Redis that holds another one",
    ("retention",): "how long history is kept that nothing reads any more",
    ("retention", "jobRuns"): "delete the runs of jobs after this time",
    ("retention", "sentAnnouncements"): "delete sent announcements of usage levels after this time",
    ("redis", "address"): "the Redis server, without a password; its database 0 is used",
    ("redis", "url"): "the Redis server, with user, password and database",
    ("serverAddress",): "accepted and read by nothing, for configuration files that have it",
    ("gitpodHost",): "accepted and read by nothing, for configuration files that have it",
    ("testClock",): "take the time from Redis, where a test can stop and advance it",
}
"""By the path of the key in the configuration file."""

VARIABLES: Final[Mapping[str, str]] = {
    "USAGE_CONFIG": "the path of the configuration file; without it the environment must set what is required",
    "USAGE_ALLOW_UNKNOWN_KEYS": "`true`: a key that this release does not know is a warning, for a rollback",
    "USAGE_DIRECTORY_KEY": "the key of the digests of e-mails, at least 32 characters; overrides `directoryKeyFile`",
    "USAGE_HEARTBEAT_DIR": "the directory of the heartbeats that `usage-tasks health` reads; without it there are none",
    "USAGE_LOG_LEVEL": "`DEBUG`, `INFO`, `WARNING` or `ERROR`; default: `INFO` for processes, `WARNING` for commands",
    "USAGE_METRICS_ADDRESS": "the address at which a worker and the receiver show metrics; default: 127.0.0.1",
    "USAGE_METRICS_PORT": "the port of these metrics; without it there are none",
    "PROMETHEUS_MULTIPROC_DIR": "an empty directory for each worker that shows metrics, set before it starts",
    "FLOWER_BASIC_AUTH": "`user:password` for `usage-tasks flower`",
    "STRIPE_SECRET_KEY": "Stripe's secret key; overrides `secretKey` of the credentials file",
    "STRIPE_WEBHOOK_SECRET": "secrets of snapshot events, comma separated; overrides `webhookKey` of that file",
    "STRIPE_THIN_WEBHOOK_SECRET": "secrets of thin events, comma separated; overrides `thinWebhookKey` of that file",
    "CELERY_CONFIG_MODULE": "a module with Celery's settings, in place of `usage_tasks.celery_files.celeryconfig`",
}
"""Environment variables that no key of the file has: of one process, or secrets, read only where they are needed."""
