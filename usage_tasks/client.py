"""The sender's helper by its older name; it is a distribution of its own, in client/."""

from usage_tasks_client import *  # noqa: F403
from usage_tasks_client import __all__  # noqa: F401
