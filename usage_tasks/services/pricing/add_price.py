"""Add price versions by hand, from a past or a future instant, with a dry run that answers every adjustment."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from usage_tasks.domain.accounts import Actor
from usage_tasks.domain.errors import InvalidInputError, NoSuchError
from usage_tasks.domain.prices import AskedPrice, State, decide_version
from usage_tasks.domain.rating import PriceVersion
from usage_tasks.storage.engine import rehearsal
from usage_tasks.storage.ledger import repricing
from usage_tasks.storage.ledger.repricing import Repricing
from usage_tasks.storage.operations import audit
from usage_tasks.storage.pricing import prices


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceChange:
    """A version and the adjustments that follow from it: planned, or in a dry run only computed."""

    version: PriceVersion
    repricing: Repricing


def add_price_version(connection: Connection, asked: AskedPrice, *, at: datetime, actor: Actor) -> PriceChange:
    """Write a version and reopen each posted session that it prices otherwise; the ledger job posts the differences.

    Raises InvalidInputError if it does not fit among the versions that stand.
    """
    prices.lock_prices(connection)
    version = _append(connection, asked, actor=actor)
    reopened = repricing.reopen_repriced(connection, asked.price_key, effective_from=version.effective_from)
    _audit(connection, asked, version, reopened, at=at, actor=actor)
    return PriceChange(version=version, repricing=reopened)


def plan_price_version(connection: Connection, asked: AskedPrice, *, actor: Actor) -> PriceChange:
    """Return what `add_price_version` would do. Nothing is written, and no posting waits."""
    with rehearsal(connection):
        version = _append(connection, asked, actor=actor)
        planned = repricing.plan_repricing(connection, asked.price_key, effective_from=version.effective_from)
    return PriceChange(version=version, repricing=planned)


def _append(connection: Connection, asked: AskedPrice, *, actor: Actor) -> PriceVersion:
    if asked.state is not State.RUNNING and not prices.list_versions(connection, asked.workspace_class):
        raise NoSuchError("workspace_class", asked.workspace_class, "class with a price")
    standing = [each.version for each in prices.list_versions(connection, asked.price_key)]
    version = decide_version(asked, standing)
    if not prices.append_version(connection, asked.price_key, version, actor=actor):
        allowed = "an instant without a version of this class (another request has just added one)"
        raise InvalidInputError("effective_from", asked.effective_from.isoformat(), allowed)
    return version


def _audit(
    connection: Connection,
    asked: AskedPrice,
    version: PriceVersion,
    reopened: Repricing,
    *,
    at: datetime,
    actor: Actor,
) -> None:
    audit.append_audit(
        connection,
        at=at,
        actor=actor,
        action="price_version.add",
        attribution_id=None,
        details={
            "workspace_class": asked.workspace_class,
            "state": asked.state,
            "effective_from": version.effective_from,
            "credits_per_minute": version.credits_per_minute,
            "minimum_cents": version.rule.minimum_cents,
            "rounding_seconds": version.rule.rounding_seconds,
            "adjustments": reopened.adjustments.rows,
            "adjustment_cents": reopened.adjustments.credit_cents,
            "accounts": reopened.accounts,
        },
    )
