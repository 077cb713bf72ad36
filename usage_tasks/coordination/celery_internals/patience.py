"""A worker's consumer that does something before each connection to the broker."""

from time import sleep
from typing import Any

from celery.worker import state
from celery.worker.consumer import Consumer
from kombu.exceptions import OperationalError


class PatientConsumer(Consumer):
    """A custom consumer, as the documented setting `worker_consumer` takes it, with a hook before each connection.

    Internal: `Consumer.connect` and `Consumer.connection_errors`, and `worker.state.maybe_shutdown`, Celery 5.7. No
    bootstep can come before the connecting one. kombu wraps what it has retried in an OperationalError, which its
    list of errors does not have: mingle publishes while the worker starts.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.connection_errors: tuple[type[Exception], ...] = (*self.connection_errors, OperationalError)

    def connect(self) -> Any:
        """Call `before_connect`, then connect; at the start, and each time after the connection was lost."""
        self.before_connect()
        return super().connect()

    def before_connect(self) -> None:
        """Wait until the broker can be worked with. To wait, call `pause`."""
        raise NotImplementedError

    def pause(self, seconds: float) -> None:
        """Sleep, and end the worker if somebody has asked for that meanwhile."""
        sleep(seconds)
        state.maybe_shutdown()
