"""Commands of `usage-tasks` that have a page of their own; usage_tasks/cli.py puts them together.

A command calls its task as over the wire, so that one validation serves both, and shows the answer. It owns no rule.
"""

from typing import Final

from usage_tasks.domain.accounts import Actor

OPERATOR: Final = Actor("service:usage-tasks")
"""Who acts on the command line."""
