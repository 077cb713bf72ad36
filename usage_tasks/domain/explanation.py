"""Why an entry or a session costs what it does: the numbers, and the same numbers in words.

The words are made from the explanation's own fields and from nothing else, so numbers and words always agree.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal, localcontext
from fractions import Fraction
from types import MappingProxyType
from typing import Final
from uuid import UUID

from usage_tasks.domain.accounts import AttributionId
from usage_tasks.domain.cost_centers import covered_by_reset
from usage_tasks.domain.credits import CreditCents, cents_to_credits
from usage_tasks.domain.prices import ALL_TIME
from usage_tasks.domain.rating import PriceVersion, RatedSpan, Rating
from usage_tasks.domain.states import State, price_key
from usage_tasks.domain.timelines import Segment, at_instant

NAMELESS: Final[Mapping[str, Sequence[str]]] = MappingProxyType({})

_DIGITS_MAX: Final = 100
"""More than seconds of a century at the longest price need: what is divided by a power of ten stays exact."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainedEntry:
    """A ledger entry as it stands."""

    key: str
    kind: str
    credit_cents: int
    effective_at: datetime
    posted_at: datetime
    description: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionFacts:
    """The known facts of a session. `ended_at` is None while it runs, and final once `stopped_at` is known.

    `workspace_class` is the class at the start; `timeline` has the later ones, with their states.
    """

    instance_id: UUID
    attribution_id: AttributionId
    workspace_class: str
    started_at: datetime
    ended_at: datetime | None
    stopped_at: datetime | None
    revision: int
    posted_revision: int
    timeline: Sequence[Segment] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainedSpan:
    """Seconds that are charged by one price version: seconds x credits per minute, exactly."""

    seconds: int
    credits_per_minute: Decimal
    effective_from: datetime
    product: Decimal
    workspace_class: str
    state: State


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionExplanation:
    """A session priced up to an instant, and what of it is in the ledger by then; `entry` is the one asked for."""

    facts: SessionFacts
    at: datetime
    runtime_seconds: int
    rounding_seconds: int
    charged_seconds: int
    spans: Sequence[ExplainedSpan]
    exact: Decimal
    metered_cents: CreditCents
    minimum_cents: CreditCents
    credit_cents: CreditCents
    entries: Sequence[ExplainedEntry]
    posted_cents: int
    pending_cents: int
    entry: ExplainedEntry | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SettlementExplanation:
    """An entry that is no usage, between the balances around it as they are known now.

    Of a reset `spending_limit`, in credits, is that of the cycle that it ended.
    """

    attribution_id: AttributionId
    entry: ExplainedEntry
    balance_before_cents: int
    balance_after_cents: int
    spending_limit: int | None


def explain_session(
    facts: SessionFacts,
    rating: Rating,
    entries: Sequence[ExplainedEntry],
    *,
    histories: Mapping[str, Sequence[PriceVersion]],
    at: datetime,
    entry: ExplainedEntry | None = None,
) -> SessionExplanation:
    """Set out how a session's price comes about, and what its entries, those in effect by `at`, have posted of it.

    `histories` has the versions of each price key that the session needs.
    """
    posted = sum(each.credit_cents for each in entries)
    return SessionExplanation(
        facts=facts,
        at=at,
        runtime_seconds=rating.runtime_seconds,
        rounding_seconds=rating.rule.rounding_seconds,
        charged_seconds=sum(span.seconds for span in rating.spans),
        spans=[_span(facts, span, histories) for span in rating.spans],
        exact=_decimal(rating.exact),
        metered_cents=rating.metered_cents,
        minimum_cents=rating.rule.minimum_cents,
        credit_cents=rating.credit_cents,
        entries=entries,
        posted_cents=posted,
        pending_cents=rating.credit_cents - posted,
        entry=entry,
    )


def _span(facts: SessionFacts, span: RatedSpan, histories: Mapping[str, Sequence[PriceVersion]]) -> ExplainedSpan:
    """Name the class and the state of a span, and the version that gave its price."""
    begin = span.version.effective_from
    workspace_class, state = at_instant(facts.timeline, begin, class_at_start=facts.workspace_class)
    versions = histories[price_key(workspace_class, state)]
    return ExplainedSpan(
        seconds=span.seconds,
        credits_per_minute=span.version.credits_per_minute,
        effective_from=max(each.effective_from for each in versions if each.effective_from <= begin),
        product=_decimal(span.seconds * Fraction(span.version.credits_per_minute)),
        workspace_class=workspace_class,
        state=state,
    )


def session_in_words(it: SessionExplanation, *, named: Mapping[str, Sequence[str]] = NAMELESS) -> str:
    """Return how a session's price comes about, a line a step. `named` has names by what they are of."""
    return "\n".join([_ran(it), *_names(named), *_priced(it), *_posted(it)])


def settlement_in_words(it: SettlementExplanation, *, named: Mapping[str, Sequence[str]] = NAMELESS) -> str:
    """Return what an entry that is no usage did to the balance. `named` has names by what they are of."""
    times = f"effective {_instant(it.entry.effective_at)}, posted {_instant(it.entry.posted_at)}"
    lines = [
        f"{it.entry.description}: {_amount(it.entry.credit_cents)} on {it.attribution_id}, {times} as {it.entry.key}.",
        *_names(named),
        f"Balance: {it.balance_before_cents} before, {it.balance_after_cents} after, in credit cents.",
    ]
    if it.spending_limit is not None:
        covered = -it.entry.credit_cents
        lines.append(
            f"The allowance covers the smaller of the balance at the cycle's end and the limit of {it.spending_limit} "
            f"credits: {covered} credit cents covered, {it.balance_after_cents} carried over."
        )
        if covered_by_reset(CreditCents(it.balance_before_cents), it.spending_limit) != covered:
            lines.append("That balance was another when the cycle was ended: what came later counts in the next cycle.")
    return "\n".join(lines)


def _names(named: Mapping[str, Sequence[str]]) -> list[str]:
    shown = "; ".join(f"{what} {' / '.join(names)}" for what, names in named.items())
    return [f"Names: {shown}."] if named else []


def _ran(it: SessionExplanation) -> str:
    facts = it.facts
    name = f"Session {facts.instance_id} of class {facts.workspace_class} on {facts.attribution_id}"
    if facts.ended_at is not None and facts.ended_at < facts.started_at:
        span = f"stopped {_instant(facts.ended_at)}, before it started {_instant(facts.started_at)}"
    elif facts.ended_at is None or facts.ended_at > it.at:
        span = f"runs from {_instant(facts.started_at)} and is priced as of {_instant(it.at)}"
    else:
        span = f"ran from {_instant(facts.started_at)} to {_instant(facts.ended_at)}"
    return f"{name} {span}: {_seconds(it.runtime_seconds)}."


def _priced(it: SessionExplanation) -> list[str]:
    lines = []
    if it.rounding_seconds > 1:
        lines.append(f"Charged in steps of {_seconds(it.rounding_seconds)}: {_seconds(it.charged_seconds)}.")
    for span in it.spans:
        since = (
            "the first price" if span.effective_from == ALL_TIME else f"the price since {_instant(span.effective_from)}"
        )
        price = f"{span.credits_per_minute:f}"
        what = f" as {span.workspace_class}, {span.state}," if it.facts.timeline else ""
        product = f"{span.seconds} x {price} = {span.product:f}"
        lines.append(f"{_seconds(span.seconds)}{what} at {price} credits a minute ({since}): {product}.")
    lines.append(
        f"The sum is {it.exact:f}. A minute has 60 seconds and a credit has 100 credit cents: "
        f"{it.exact:f} / 60 x 100, rounded once, half up, is {it.metered_cents} credit cents."
    )
    if it.credit_cents != it.metered_cents:
        lines.append(f"The least charge is {it.minimum_cents} credit cents.")
    lines.append(f"It costs {_amount(it.credit_cents)}.")
    return lines


def _posted(it: SessionExplanation) -> list[str]:
    lines = []
    before = 0
    for each in it.entries:
        asked = ", the entry asked for" if it.entry is not None and each.key == it.entry.key else ""
        lines.append(
            f"Posted {_instant(each.posted_at)} as {each.key}{asked}: {each.credit_cents}, "
            f"effective {_instant(each.effective_at)}; {before} before, {before + each.credit_cents} after."
        )
        before += each.credit_cents
    if it.facts.stopped_at is None or it.facts.stopped_at > it.at:
        lines.append(f"It is a draft: {it.pending_cents} credit cents are not posted.")
    elif it.facts.posted_revision < it.facts.revision:
        lines.append(f"The next run of the ledger job posts what is missing: {it.pending_cents} credit cents.")
    elif it.pending_cents:
        lines.append(f"Entries that take effect later make up the rest: {it.pending_cents} credit cents.")
    if it.entry is not None and it.entries[-1].key != it.entry.key:
        lines.append("Facts or prices were corrected after the entry asked for; the seconds above are as known now.")
    return lines


def _amount(cents: int) -> str:
    return f"{cents} credit cents ({cents_to_credits(cents)} credits)"


def _seconds(number: int) -> str:
    return f"{number} second{'' if number == 1 else 's'}"


def _instant(moment: datetime) -> str:
    return moment.isoformat(sep=" ")


def _decimal(value: Fraction) -> Decimal:
    with localcontext() as context:
        context.prec = _DIGITS_MAX
        return Decimal(value.numerator) / Decimal(value.denominator)
