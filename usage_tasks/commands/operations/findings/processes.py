"""The processes of this machine, by their heartbeats. Processes elsewhere are judged by the jobs and the queues."""

from pathlib import Path

from usage_tasks.commands.operations.findings.finding import Examination, Findings, fine, wrong
from usage_tasks.health import DIRECTORY_VARIABLE, check_heartbeats


def look_at_processes(it: Examination) -> Findings:
    """Look at each heartbeat. A beat, or a worker, that has none here may run on another machine."""
    named = it.environ.get(DIRECTORY_VARIABLE)
    if not named:
        yield fine("beat", f"no heartbeats here: {DIRECTORY_VARIABLE} is not set")
        return
    directory = Path(named)
    beats = check_heartbeats(directory, "beat", live=False)
    alive = [name for name, problem in beats if problem is None]
    found = f"{len(alive)} of {len(beats)} are alive on this machine"
    if beats and not alive:
        advice = f"Start `celery -A usage_tasks beat`; remove the files from {named} if it runs on another machine now."
        yield wrong("beat", f"{found}: {'; '.join(f'{name}: {problem}' for name, problem in beats)}", advice)
    else:
        yield fine("beat", found)
    for name, problem in check_heartbeats(directory, "worker", live=False):
        if problem is None:
            yield fine("workers", f"{name} is alive")
        else:
            advice = f"Start it again; if it was taken away for good, remove its file from {directory}."
            yield wrong("workers", f"{name}: {problem}", advice)
