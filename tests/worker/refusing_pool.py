"""A pool that does not take a task, as one of Celery's does that chokes on what it gets."""

from typing import Any

from celery.concurrency.solo import TaskPool


class RefusingPool(TaskPool):
    """A pool that takes each task except the marked ones."""

    def apply_async(self, target: Any, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        """Raise TypeError before the task begins."""
        if "refused" in str(args):
            raise TypeError("the pool chokes on it")
        return super().apply_async(target, args, kwargs, **options)
