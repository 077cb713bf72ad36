"""The tasks of a newer version: one is added, one has learned an argument, and its old argument a field."""

from datetime import timedelta

from pydantic import BaseModel, ConfigDict

from usage_tasks.runtime import runtime
from usage_tasks.tasks.task import task


class NewerShape(BaseModel):
    """The argument of the newer version."""

    model_config = ConfigDict(extra="forbid", title="Shape")
    corners: int
    colour: str = ""


@task(name="maintenance.grown", time_limit=timedelta(minutes=1))
def grown(mark: str, shape: NewerShape | None = None, *, size: int = 0) -> str:
    """Count that it ran."""
    runtime().redis.incr(f"{mark} done")
    return f"newer: {shape} {size}"


@task(name="maintenance.added", time_limit=timedelta(minutes=1))
def added(mark: str) -> str:
    """Count that it ran."""
    runtime().redis.incr(f"{mark} done")
    return "newer"
