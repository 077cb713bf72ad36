"""The clocks of the database and Redis, compared with this machine's."""

from usage_tasks.commands.operations.findings.finding import Examination, Findings, fine, wrong
from usage_tasks.telemetry.clocks import CLOCKS, STRIPE
from usage_tasks.telemetry.skew import find_wrong


def look_at_clocks(it: Examination) -> Findings:
    """Compare the clocks that were read.

    Stripe's clock, if Stripe was asked, helps to find the wrong one; stripe.py has its line.
    """
    seen = it.clocks.fresh()
    readings = {peer: each for peer, each in CLOCKS.fresh().items() if peer == STRIPE} | dict(seen)
    apart = " and the ".join(f"{name}'s" for name in find_wrong(readings))
    for peer, each in sorted(seen.items()):
        found = f"{peer} is {each.ahead:+.2f} s ahead of this machine (±{each.slack:.2f} s)"
        if each.differs:
            yield wrong("clocks", found, f"Apart from the others: the {apart}. Run a time service.")
        else:
            yield fine("clocks", found)
