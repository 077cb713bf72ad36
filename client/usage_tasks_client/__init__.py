"""For platforms: report sessions to the ledger and know that they arrived; receive announcements; send
users and teams to the directory.

A broker on Redis can lose a message when a worker is killed. So a sender waits for the answer, and sends again under
the same task ids when none comes; recording twice is recording once. Any Celery application that shares the broker, the
result backend and their `global_keyprefix` will do; nothing else of usage-tasks is needed.
"""

from usage_tasks_client.announcements import ANNOUNCEMENTS, listen
from usage_tasks_client.batches import BATCH, Batch, Recorded, RefusedError, Report, UnconfirmedError, prepare
from usage_tasks_client.broker import ForeignInstallationError, WrongBrokerError, check_broker
from usage_tasks_client.directory import tell_teams, tell_users
from usage_tasks_client.recording import IN_FLIGHT_MAX, QUEUE, TASK, confirm, record, record_unconfirmed, send

__all__ = [
    "ANNOUNCEMENTS",
    "BATCH",
    "IN_FLIGHT_MAX",
    "QUEUE",
    "TASK",
    "Batch",
    "ForeignInstallationError",
    "Recorded",
    "RefusedError",
    "Report",
    "UnconfirmedError",
    "WrongBrokerError",
    "check_broker",
    "confirm",
    "listen",
    "prepare",
    "record",
    "record_unconfirmed",
    "send",
    "tell_teams",
    "tell_users",
]
