"""The commands of `usage-tasks`, a module for each group; usage_tasks/cli.py has the table of their names.

A command calls its task as over the wire, so that one validation serves both, and shows the answer. It owns no rule.
A module is imported only when one of its commands is run.
"""

import os
from typing import Final

from usage_tasks.domain.accounts import Actor

OPERATOR: Final = Actor("service:usage-tasks")
"""The actor of everything that is done on the command line."""

WRONG: Final = 1
"""Exit code: something does not hold."""
USAGE_ERROR: Final = 2
"""Exit code: wrong settings or usage."""
TRY_AGAIN: Final = os.EX_TEMPFAIL
"""Exit code: the database or another server is busy or away."""
