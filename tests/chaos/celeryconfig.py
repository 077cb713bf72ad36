"""The settings as they are, but that a message whose worker vanished comes back after 10 s instead of 10 minutes."""

from celeryconfig import *  # noqa: F403 - as it is
from celeryconfig import broker_transport_options as _as_shipped

broker_transport_options = _as_shipped | {"visibility_timeout": 10}
