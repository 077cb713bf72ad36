"""Page of the metrics: those of the processes, from their registry, and those of the exporter, from its source."""

import ast
import inspect
from collections.abc import Iterator
from typing import Final

from prometheus_client.metrics import MetricWrapperBase

from tests.docs.reference.shapes import cell
from usage_tasks.commands.operations import exporter
from usage_tasks.telemetry import metrics

_HEAD: Final = """\
# Metrics

Every Prometheus metric. A worker and the receiver show theirs on `USAGE_METRICS_PORT`. `usage-tasks exporter` shows
how much waits in the broker and in the tables; one exporter is enough for an installation.

"""
_TABLE: Final = "| metric | type | labels | meaning |\n|---|---|---|---|\n"


def render() -> str:
    """Return the page."""
    processes = "".join(f"| `{name}` | {kind} | {labels} | {text} |\n" for name, kind, labels, text in _of_processes())
    exported = "".join(f"| `{name}` | gauge | {labels} | {text} |\n" for name, labels, text in of_exporter())
    return f"{_HEAD}## Workers and receiver\n{_TABLE}{processes}\n## Exporter\n{_TABLE}{exported}"


def _of_processes() -> Iterator[tuple[str, str, str, str]]:
    for each in vars(metrics).values():
        if isinstance(each, MetricWrapperBase):
            (family,) = each.describe()
            labels = getattr(each, "_labelnames", ())
            name = f"{family.name}_total" if family.type == "counter" else family.name
            yield name, family.type, _spelled(labels), cell(family.documentation)


def of_exporter() -> Iterator[tuple[str, str, str]]:
    """Yield the name, the labels and the help of each metric that the exporter makes."""
    found = set()
    for node in ast.walk(ast.parse(inspect.getsource(exporter))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "GaugeMetricFamily":
            name, text = (ast.literal_eval(each) for each in node.args[:2])
            given = [ast.literal_eval(each.value) for each in node.keywords if each.arg == "labels"]
            labels = given[0] if given else ()
            found.add((name, _spelled(labels), cell(text)))
    yield from sorted(found)


def _spelled(labels: "list[str] | tuple[str, ...]") -> str:
    return ", ".join(f"`{each}`" for each in labels)
