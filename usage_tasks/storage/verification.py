"""Independent questions to the tables, each of which must have no answer."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Connection, exc

from usage_tasks.domain.ledger import FORGIVEN, INVOICED, Contra, KeyPrefix, kinds_of
from usage_tasks.storage import keys
from usage_tasks.storage.ledger.account_weeks import week_of
from usage_tasks.storage.ledger.grants import spent
from usage_tasks.storage.pricing import timeline_checks
from usage_tasks.storage.pricing.rating_sql import RATED
from usage_tasks.storage.pricing.timelines_sql import class_of_open, priced_parts
from usage_tasks.storage.rows import fetch, sql_list

SAMPLE_MAX: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class VerificationFinding:
    """The result of one check: the number of offending rows, and a bounded sample of them."""

    check: str
    offenders: int
    sample: tuple[str, ...]


def _sum_of(contra: Contra) -> str:
    """A sum of entries on one contra account, by its name: what is used is positive, so is what settles it."""
    sign = "" if contra is Contra.USED else "-"
    kinds = sql_list(kinds_of(contra))
    return f"COALESCE({sign}sum(credit_cents) FILTER (WHERE kind IN ({kinds})), 0) AS {contra}_cents"


_SUMS = [f"{contra}_cents" for contra in Contra] + ["carried_cents", "latest_effective_at"]

_BALANCES = f"""
    SELECT COALESCE(b.attribution_id, l.attribution_id) AS offender
    FROM account_balance b FULL JOIN (
        SELECT attribution_id, {", ".join(map(_sum_of, Contra))}, sum(credit_cents) AS carried_cents,
               max(effective_at) AS latest_effective_at
        FROM ledger_entry GROUP BY attribution_id
    ) l USING (attribution_id)
    WHERE ({", ".join(f"b.{name}" for name in _SUMS)}) IS DISTINCT FROM ({", ".join(f"l.{name}" for name in _SUMS)})
"""

# A week reaches back as far as the sessions that have their last entry in it, or further: further is only slower.
_WEEKS = f"""
    SELECT COALESCE(k.attribution_id, l.attribution_id) || ' ' || COALESCE(k.starts_at, l.starts_at) AS offender
    FROM account_week k FULL JOIN (
        SELECT attribution_id, {week_of("effective_at")} AS starts_at, sum(credit_cents) AS credit_cents
        FROM ledger_entry GROUP BY 1, 2
    ) l USING (attribution_id, starts_at)
    WHERE k.credit_cents IS DISTINCT FROM l.credit_cents
    UNION ALL
    SELECT s.attribution_id || ' ' || s.instance_id
    FROM (
        SELECT attribution_id, instance_id, min(effective_at) AS first_at, max(effective_at) AS last_at
        FROM ledger_entry WHERE instance_id IS NOT NULL GROUP BY 1, 2
    ) AS s
    JOIN workspace_instance w USING (attribution_id, instance_id)
    LEFT JOIN account_week k ON k.attribution_id = s.attribution_id AND k.starts_at = {week_of("s.last_at")}
    WHERE (k.reaches_back_to <= LEAST(w.started_at, s.first_at)) IS NOT TRUE AND NOT EXISTS (
        SELECT 1 FROM open_session o WHERE o.attribution_id = s.attribution_id AND o.instance_id = s.instance_id
    )
"""

_UNPOSTED = """
    SELECT instance_id::text AS offender FROM open_session o JOIN workspace_instance w USING (instance_id)
    WHERE o.final_at <= :at - CAST(:grace AS interval)
        AND GREATEST(w.recorded_at, o.opened_at) <= clock_timestamp() - CAST(:grace AS interval)
        AND GREATEST(o.ended_at, o.started_at) <= :at
"""

# A key that names no revision has none: a cast of it would end the whole verification in an error.
_WRITTEN = keys.revision_of("key")
_REVISION = f"CASE WHEN {_WRITTEN} ~ '^[1-9][0-9]{{0,8}}$' THEN {_WRITTEN}::int END"

# A session is open or has entries. They stand on its account, are numbered by revision without a gap, and add up to
# its posted cents if it is open again.
_ENTRIES_OF_SESSIONS = f"""
    SELECT instance_id::text AS offender
    FROM (
        SELECT attribution_id, instance_id, o.revision, o.posted_cents, o.settled_at, true AS known
        FROM workspace_instance LEFT JOIN open_session o USING (attribution_id, instance_id)
    ) w FULL JOIN (
        SELECT instance_id, attribution_id, count(*) AS entries, sum(credit_cents) AS credit_cents,
               max(effective_at) AS settled_at, max({_REVISION}) AS latest
        FROM ledger_entry WHERE instance_id IS NOT NULL
        GROUP BY instance_id, attribution_id
    ) e USING (instance_id, attribution_id)
    WHERE w.known IS NULL OR e.entries IS DISTINCT FROM e.latest OR CASE
        WHEN w.revision IS NULL THEN e.entries IS NULL
        ELSE (w.revision, w.posted_cents, w.settled_at)
            IS DISTINCT FROM (COALESCE(e.entries, 0) + 1, COALESCE(e.credit_cents, 0), e.settled_at)
    END
"""

_OPEN_SESSIONS = f"""
    SELECT o.instance_id::text AS offender
    FROM open_session o LEFT JOIN workspace_instance w USING (attribution_id, instance_id)
    CROSS JOIN LATERAL ({priced_parts("w")}) AS p
    WHERE ({class_of_open("o")}, o.timeline, o.priced_from, o.price_keys, o.started_at, o.ended_at, o.final_at)
        IS DISTINCT FROM
        (w.workspace_class, w.timeline, p.priced_from, p.price_keys, w.started_at, w.ended_at, w.final_at)
"""

_POSTED = """
    SELECT instance_id, sum(credit_cents) AS credit_cents FROM ledger_entry e
    WHERE instance_id IS NOT NULL AND NOT EXISTS (
        SELECT 1 FROM open_session o
        WHERE o.attribution_id = e.attribution_id AND o.instance_id = e.instance_id
    )
    GROUP BY instance_id
"""

_PRICES_OF_SESSIONS = f"""
    SELECT posted.instance_id::text AS offender
    FROM ({_POSTED}) posted LEFT JOIN (
        WITH session AS (
            SELECT w.instance_id, w.workspace_class, p.priced_from, p.price_keys, w.started_at,
                   GREATEST(w.ended_at, w.started_at) AS until
            FROM workspace_instance w CROSS JOIN LATERAL ({priced_parts("w")}) AS p
        ), {RATED} SELECT instance_id, credit_cents FROM rated
    ) r USING (instance_id)
    WHERE r.credit_cents IS DISTINCT FROM posted.credit_cents
"""

_PRICES_ALONG = f"""
    SELECT cost.instance_id::text AS offender
    FROM ({timeline_checks.COSTS}) cost JOIN ({_POSTED}) posted USING (instance_id)
    WHERE cost.credit_cents <> posted.credit_cents
"""

_VERSIONS = """
    SELECT attribution_id AS offender FROM cost_center GROUP BY attribution_id
    HAVING count(*) <> max(version) OR count(*) FILTER (WHERE superseded_at IS NULL) <> 1
"""

# A reset covers at most the limit of the version whose cycle it closed, and is named by that cycle: one a cycle.
_RESETS = f"""
    SELECT e.attribution_id || ' ' || e.key AS offender FROM ledger_entry e
    WHERE e.kind = 'reset' AND NOT EXISTS (
        SELECT 1 FROM cost_center c WHERE c.attribution_id = e.attribution_id
            AND c.billing_strategy = 'other' AND c.next_billing_at = e.effective_at
            AND e.key = {keys.reset_key("c.cycle_started_at")}
            AND -e.credit_cents BETWEEN 1 AND c.spending_limit * 100
    )
"""

# On strategy other a version keeps its predecessor's cycle or begins where that one ended: no time is in none or two.
_CYCLES = """
    SELECT attribution_id || ' version ' || version AS offender FROM (
        SELECT attribution_id, version, billing_strategy, cycle_started_at,
               lag(billing_strategy) OVER earlier AS former_strategy,
               lag(cycle_started_at) OVER earlier AS former_start, lag(next_billing_at) OVER earlier AS former_end
        FROM cost_center WINDOW earlier AS (PARTITION BY attribution_id ORDER BY version)
    ) AS c
    WHERE billing_strategy = 'other' AND former_strategy = 'other'
        AND cycle_started_at NOT IN (former_start, former_end)
"""

# Without a cost center nothing of an account is ever reset, limited or billed.
_ACCOUNTS = """
    SELECT attribution_id AS offender FROM (
        SELECT attribution_id FROM account_balance UNION SELECT attribution_id FROM open_session
    ) AS a
    WHERE NOT EXISTS (SELECT 1 FROM cost_center c WHERE c.attribution_id = a.attribution_id)
"""

# Each entry is named by what it is of; the name of a session is its own, and the first of a session is no correction.
_FIRST = keys.session_key("instance_id", "1")
_KEYS = f"""
    SELECT attribution_id || ' ' || key AS offender FROM ledger_entry e
    WHERE CASE kind
        WHEN 'session' THEN key = {_FIRST}
        WHEN 'adjustment' THEN {keys.is_of_session("key", "instance_id")} AND key <> {_FIRST}
        WHEN 'invoice' THEN {keys.begins_with("key", KeyPrefix.INVOICE)}
        WHEN 'reset' THEN {keys.begins_with("key", KeyPrefix.RESET)}
        WHEN 'upgrade' THEN EXISTS (
            SELECT 1 FROM cost_center c WHERE c.attribution_id = e.attribution_id
                AND e.key = {keys.upgrade_key("c.version")} AND c.billing_strategy = 'stripe'
        )
        WHEN 'credit_note' THEN {keys.begins_with("key", KeyPrefix.NOTE)}
        WHEN 'grant_burn' THEN {keys.begins_with("key", KeyPrefix.GRANT)}
        WHEN 'invoice_reversal' THEN
            {keys.begins_with("key", KeyPrefix.REVERSAL)} OR {keys.is_of_credit_note("key", INVOICED)}
        WHEN 'write_off' THEN
            {keys.begins_with("key", KeyPrefix.WRITE_OFF)} OR {keys.is_of_credit_note("key", FORGIVEN)}
        ELSE key <> ''
    END IS NOT TRUE
"""

_INVOICES = """
    SELECT key AS offender FROM ledger_entry WHERE kind = 'invoice' GROUP BY key HAVING count(*) > 1
"""

# A session that is missing in the latest snapshot of its source has ended there.
_MISSED = """
    SELECT w.instance_id::text AS offender
    FROM workspace_instance w JOIN source_snapshot s USING (source)
    WHERE w.stopped_at IS NULL AND s.taken_at > w.last_seen_at AND w.inferred_stopped_at IS NULL
"""

# A grant is what it paid, what lapsed and what is left; it pays while it is in force, and is closed when none is left.
_GRANTS = f"""
    SELECT attribution_id || ' grant ' || number AS offender FROM (
        SELECT g.attribution_id, g.number, g.closed_at, g.expires_at, g.amount_cents - {spent()} AS left_cents
        FROM credit_grant g
    ) AS held
    WHERE left_cents < 0 OR (left_cents = 0) <> (closed_at IS NOT NULL)
        OR (closed_at IS NULL AND expires_at <= :at - CAST(:grace AS interval))
    UNION ALL
    SELECT e.attribution_id || ' ' || e.key FROM ledger_entry e
    WHERE e.kind = 'grant_burn' AND NOT EXISTS (
        SELECT 1 FROM credit_grant g WHERE g.attribution_id = e.attribution_id
            AND g.number::text = {keys.grant_number_of("e.key")} AND e.credit_cents < 0
            AND g.effective_at < e.effective_at AND (g.expires_at IS NULL OR e.effective_at <= g.expires_at)
    )
"""

# The ledger's invoiced amount of an invoice follows from its state and from its credit notes.
_STANDINGS = f"""
    SELECT i.attribution_id || ' ' || i.stripe_invoice_id AS offender
    FROM stripe_invoice i LEFT JOIN (
        SELECT attribution_id, {keys.invoice_id_of("key")} AS stripe_invoice_id,
               count(*) FILTER (WHERE kind = 'invoice') AS booked, -sum(credit_cents) AS invoiced_cents,
               sum(credit_cents) FILTER (WHERE {keys.is_credited("key")}) AS credited_cents
        FROM ledger_entry WHERE kind IN ('invoice', 'invoice_reversal') GROUP BY 1, 2
    ) AS held USING (attribution_id, stripe_invoice_id)
    WHERE COALESCE(held.booked, 0) <> (i.status <> 'draft')::int OR COALESCE(held.invoiced_cents, 0) <>
        CASE WHEN i.status IN ('open', 'paid') THEN i.credit_cents - COALESCE(held.credited_cents, 0) ELSE 0 END
"""

# An allowance that was used up was used by an account that was opened in that moment.
_ALLOWANCES = """
    SELECT attribution_id AS offender FROM allowance_claim a
    WHERE NOT EXISTS (
        SELECT 1 FROM cost_center c
        WHERE c.attribution_id = a.attribution_id AND c.version = 1 AND c.cycle_started_at = a.claimed_at
    )
"""

# Nothing takes effect later than the present: by the database's clock, or by a test clock that is ahead of it.
_FUTURE = """
    SELECT attribution_id || ' ' || key AS offender FROM ledger_entry
    WHERE effective_at > GREATEST(:at, clock_timestamp())
    UNION ALL
    SELECT attribution_id || ' version ' || version FROM cost_center
    WHERE cycle_started_at > GREATEST(:at, clock_timestamp())
"""

CHECKS: Final = {
    "balances_equal_entries": _BALANCES,
    "stopped_sessions_are_posted": _UNPOSTED,
    "entries_match_sessions": _ENTRIES_OF_SESSIONS,
    "open_sessions_match_facts": _OPEN_SESSIONS,
    "prices_match_facts": _PRICES_OF_SESSIONS,
    "timelines_are_joined": timeline_checks.NOT_JOINED,
    "prices_match_timelines": _PRICES_ALONG,
    "entries_carry_their_keys": _KEYS,
    "invoices_are_booked_once": _INVOICES,
    "accounts_are_open": _ACCOUNTS,
    "cost_center_versions_have_no_gaps": _VERSIONS,
    "cycles_follow_one_another": _CYCLES,
    "nothing_is_of_the_future": _FUTURE,
    "resets_stay_within_limits": _RESETS,
    "missed_sessions_have_ended": _MISSED,
    "grants_are_conserved": _GRANTS,
    "invoices_are_booked_as_they_stand": _STANDINGS,
    "allowances_have_accounts": _ALLOWANCES,
    "weeks_match_entries": _WEEKS,
}


def run_checks(connection: Connection, *, at: datetime, grace: timedelta) -> list[VerificationFinding]:
    """Run every check. A clean check has 0 offenders; one that a wrong value breaks off has the error as its sample."""
    findings = []
    for name, offending in CHECKS.items():
        statement = f"""
            WITH offending AS ({offending})
            SELECT (SELECT count(*) FROM offending) AS offenders,
                   ARRAY(SELECT offender FROM offending ORDER BY offender LIMIT :sample) AS sample
        """
        parameters = {"at": at, "grace": grace} if ":at" in offending else {}
        try:
            with connection.begin_nested():
                row = fetch(connection, statement, sample=SAMPLE_MAX, **parameters)[0]
        except exc.DataError as error:
            why, *_ = str(error.orig).splitlines()
            findings.append(
                VerificationFinding(check=name, offenders=1, sample=(f"a value that it cannot read: {why}",))
            )
        else:
            findings.append(VerificationFinding(check=name, offenders=row.offenders, sample=tuple(row.sample)))
    return findings
