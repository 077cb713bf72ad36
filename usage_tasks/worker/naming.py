"""The node name of a worker: its own, also where several workers of one machine are started without `--hostname`.

Celery names each of them `celery@<machine>`. It warns of workers with the same name, and each answers commands and
questions that are for another one.
"""

from collections.abc import Sequence
from typing import Any

import click
from click.core import ParameterSource


def name_by_queues(worker: Any, queues: Sequence[str] | None) -> None:
    """Name a worker after its queues (`billing-stripe@vm`), unless it was given a name or takes from all queues.

    With a hyphen: `celery control --destination` takes several names with commas between them.
    """
    context = click.get_current_context(silent=True)
    if not queues or context is None or context.get_parameter_source("hostname") is not ParameterSource.DEFAULT:
        return
    machine = worker.hostname.partition("@")[2]
    worker.hostname = f"{'-'.join(queues)}@{machine}"
