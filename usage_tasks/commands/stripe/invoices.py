"""`usage-tasks invoices`: Stripe's invoices, booked, finalized, and the last one asked for."""

import json
from typing import Annotated, Any

import typer
from rich.console import Console

from usage_tasks.commands import OPERATOR
from usage_tasks.tasks.billing import invoices as tasks

invoices = typer.Typer(help="Stripe's invoices.", no_args_is_help=True)


@invoices.command("reconcile")
def reconcile_invoices(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only show what would be booked")] = False,
) -> None:
    """Book every invoice of ours whose event never came. Exit code 2, with counts, if any cannot be."""
    reconcile: Any = tasks.reconcile_invoices
    Console().print_json(json.dumps(reconcile(dry_run=dry_run)))


@invoices.command("finalize")
def finalize_invoice(
    attribution_id: Annotated[str, typer.Argument(help="team:<id> or user:<id>")],
    invoice_id: Annotated[str, typer.Argument(help="Stripe's id of the draft, in_...")],
) -> None:
    """Finalize an account's draft in Stripe now, its closing quantity first."""
    finalize: Any = tasks.finalize_invoice
    answer = finalize(attribution_id=attribution_id, actor=OPERATOR, stripe_invoice_id=invoice_id)
    Console().print_json(json.dumps(answer))


@invoices.command("cancel-subscription")
def cancel_subscription(attribution_id: Annotated[str, typer.Argument(help="team:<id> or user:<id>")]) -> None:
    """End an account's subscription in Stripe now, with a last invoice; it leaves stripe once that is booked."""
    cancel: Any = tasks.cancel_subscription
    Console().print_json(json.dumps(cancel(attribution_id=attribution_id, actor=OPERATOR)))
