"""The number of examples of a property in a run: a third, or all of them with TEST_EXAMPLES=all (`make coverage`).

Each run draws other examples. For the properties that take a second of a processor and more.
"""

import os
from typing import Final

ALL: Final = os.environ.get("TEST_EXAMPLES") == "all"


def examples(many: int) -> int:
    """Return the number of examples of a property that has `many` where all of them are asked for."""
    return many if ALL else -(-many // 3)
