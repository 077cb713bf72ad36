"""Let grants pay open usage, finally: the only place that burns grants.

The decisions for a set of accounts are written together with the resets that follow from them: the ledger takes
entries in account order, so concurrent workers cannot deadlock. The caller holds the locks of the accounts' cost
centers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection

from usage_tasks.domain.accounts import AttributionId
from usage_tasks.domain.cost_centers import CostCenter
from usage_tasks.domain.credits import CreditCents
from usage_tasks.domain.errors import InvariantError
from usage_tasks.domain.grants import Burn, OpenGrant, Settlement, settle
from usage_tasks.domain.ledger import EntryKind, burn_key
from usage_tasks.storage.ledger import balances, entries, grants
from usage_tasks.storage.metering.decide import list_awaiting_invoice


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """The decision for one account: the effect on its grants, and the usage that they leave open."""

    settlement: Settlement
    burns: Sequence[Burn]
    left_open: CreditCents


def decide(
    connection: Connection,
    settlements: Sequence[Settlement],
    open_grants: Mapping[AttributionId, Sequence[OpenGrant]],
) -> Sequence[Settled]:
    """Decide what the grants of each account pay at its instant."""
    gross = balances.list_gross_balances(connection, [(each.attribution_id, each.at) for each in settlements])
    granted = [each for each in settlements if each.attribution_id in open_grants]
    payable = _list_payable(connection, granted, gross)
    decided = []
    for each in settlements:
        account = each.attribution_id
        burns = settle(open_grants.get(account, ()), payable.get(account, 0), at=each.at, ends_cycle=each.ends_cycle)
        left = CreditCents(gross[account] - sum(burn.burnt_cents for burn in burns))
        decided.append(Settled(settlement=each, burns=burns, left_open=left))
    return decided


def _list_payable(
    connection: Connection, settlements: Sequence[Settlement], gross: Mapping[AttributionId, CreditCents]
) -> Mapping[AttributionId, int]:
    """Return the usage that grants may pay: open, not settled by a later entry, and not on a coming invoice.

    A settlement may run late, after an entry that takes effect later: usage paid by that entry stays paid.
    """
    if not settlements:
        return {}
    later = entries.list_latest_settled(connection, [(each.attribution_id, each.at) for each in settlements])
    since = balances.list_gross_balances(connection, list(later.items()))
    sent = [(each.attribution_id, each.told_until) for each in settlements]
    billed = list_awaiting_invoice(connection, sent)
    return {
        account: min(gross[account], since.get(account, gross[account])) - billed.get(account, 0)
        for account in (each.attribution_id for each in settlements)
    }


def write(
    connection: Connection, decided: Sequence[Settled], further: Sequence[entries.Entry] = ()
) -> Sequence[entries.Entry]:
    """Book what was decided, and with it the entries that follow from it; return all that was booked."""
    burns = [(burn, each.settlement.at) for each in decided for burn in each.burns]
    booked = [*(_burn_entry(burn, at) for burn, at in burns if burn.burnt_cents), *further]
    if entries.append_entries(connection, booked) != len(booked):
        raise InvariantError(f"settle: one of {[entry.key for entry in booked]} stands although it was not settled")
    grants.append_lapses(connection, burns)
    return booked


def settle_now(connection: Connection, current: CostCenter, *, at: datetime, ends_cycle: bool) -> None:
    """Let the grants of one account pay what is open at an instant."""
    _settle_one(connection, current, at=at, told_until=at, ends_cycle=ends_cycle)


def settle_closing(connection: Connection, current: CostCenter, *, period_end: datetime) -> None:
    """Let the grants of a paying account pay the open usage at the end of a period, before its quantity is reported."""
    told_until = period_end - timedelta(seconds=1)  # the quantity of this period is about to be reported again
    _settle_one(connection, current, at=period_end, told_until=told_until, ends_cycle=True)


def _settle_one(
    connection: Connection, current: CostCenter, *, at: datetime, told_until: datetime, ends_cycle: bool
) -> None:
    account = current.attribution_id
    if not (open_grants := grants.list_open(connection, [account])):
        return
    settlement = Settlement(attribution_id=account, at=at, told_until=told_until, ends_cycle=ends_cycle)
    write(connection, decide(connection, [settlement], open_grants))


def _burn_entry(burn: Burn, at: datetime) -> entries.Entry:
    return entries.Entry(
        attribution_id=burn.grant.attribution_id,
        key=burn_key(burn.grant.number, at),
        kind=EntryKind.GRANT_BURN,
        credit_cents=-burn.burnt_cents,
        effective_at=at,
        description=f"Paid by grant {burn.grant.number}",
    )
