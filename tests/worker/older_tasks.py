"""Tasks of an older version of the application."""

from datetime import timedelta

from pydantic import BaseModel, ConfigDict

from usage_tasks.runtime import runtime
from usage_tasks.tasks.task import task


class OlderShape(BaseModel):
    """The argument of the older version."""

    model_config = ConfigDict(extra="forbid", title="Shape")
    corners: int


@task(name="maintenance.grown", time_limit=timedelta(minutes=1))
def grown(mark: str, shape: OlderShape | None = None) -> str:
    """Count that it ran."""
    runtime().redis.incr(f"{mark} done")
    return f"older: {shape}"
