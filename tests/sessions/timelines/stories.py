"""Random stories of one session: reports with segments, whole or in parts, once or often; price versions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from hypothesis import strategies as st

from tests.factories import DAY, HOUR, START, make_id, session_row
from tests.sessions.timelines.oracle import RUNNING, Prices, Session, Told, Value, Version

INSTANCE: Final = str(make_id("timeline"))
USERS: Final = tuple(str(make_id(name)) for name in ("owner", "another"))
# The order of these names differs between code points and a dictionary's collation.
CLASSES: Final = ("Zeta", "alpha", "alpha2")
STATES: Final = (RUNNING, "suspended", "stopped_kept")
VALUES: Final = tuple(Value(workspace_class, state) for workspace_class in CLASSES for state in STATES)
FIRST_VERSION_AT: Final = datetime.fromisoformat("1970-01-01T00:00:00+00:00")
LAST: Final = START + 3 * DAY
"""No instant of a story is later."""

# Few enough instants that edges coincide, or lie half a second apart, and midnights are among them.
_NEAR: Final = [timedelta(microseconds=number) for number in (0, 1, 499_999, 500_000, 500_001, 1_000_000)]
NEAR: Final = st.builds(
    lambda seconds, near: START + timedelta(seconds=seconds) + near,
    st.sampled_from([0, 1, 30, 59, 60, 61, 90, 3600, 86_399, 86_400]),
    st.sampled_from(_NEAR),
)
INSTANTS: Final = st.one_of(NEAR, NEAR, st.timedeltas(timedelta(0), 2 * DAY).map(lambda offset: START + offset))
# Few of them, so that reports are often observed together, and segments begin together.
TOGETHER: Final = [START, START + HOUR, START + 2 * HOUR]
OBSERVED: Final = st.one_of(st.sampled_from(TOGETHER), INSTANTS)
PRICES_PER_MINUTE: Final = st.one_of(
    st.sampled_from([Decimal(0), Decimal("0.1666666667"), Decimal("0.5"), Decimal(1)]), st.decimals(0, 100, places=10)
)
MINIMUMS: Final = st.sampled_from([0, 0, 1, 5, 250])
STEPS: Final = st.one_of(st.just(1), st.sampled_from([2, 7, 60, 3600]))


def report(**fields: Any) -> dict[str, Any]:
    """One report of the one session on the wire, observed at the start unless given."""
    row = session_row(**({"instance_id": INSTANCE, "observed_at": START} | fields))
    return {key: value for key, value in row.items() if value is not None and value != []}


def segment(begins_at: datetime, workspace_class: str, state: str = RUNNING) -> dict[str, str]:
    """One segment on the wire; a running one names no state."""
    named = {} if state == RUNNING else {"state": state}
    return {"from": begins_at.isoformat(), "workspace_class": workspace_class} | named


@dataclass(frozen=True)
class Story:
    """All reports of a session, each priced, and the price versions of every class and state."""

    reports: Sequence[dict[str, Any]]
    prices: Prices


def begins_of(reports: Sequence[Mapping[str, Any]]) -> list[datetime]:
    """Return the instants at which segments begin, in rising order."""
    return sorted({each.begins_at for one in reports for each in Told(one).segments})


@st.composite
def reports(draw: st.DrawFn, *, classes: Sequence[str], users: Sequence[str]) -> dict[str, Any]:
    """One report: running, stopping or stopped, with up to four segments, before its start, at it and after its end."""
    started_at = draw(st.one_of(st.just(START), NEAR))
    begins = draw(st.lists(st.one_of(INSTANTS, st.sampled_from([started_at, *TOGETHER])), max_size=4, unique=True))
    return report(
        started_at=started_at,
        observed_at=draw(OBSERVED),
        stopped_at=draw(st.one_of(st.none(), INSTANTS)),
        stopping_at=draw(st.one_of(st.none(), st.none(), INSTANTS)),
        workspace_class=draw(st.sampled_from(classes)),
        user_id=draw(st.sampled_from(users)),
        segments=[segment(begin, *draw(st.sampled_from(VALUES))) for begin in sorted(begins)],
    )


def versions_from(at: datetime) -> st.SearchStrategy[Version]:
    """A price version in force from an instant."""
    return st.builds(Version, st.just(at), PRICES_PER_MINUTE, MINIMUMS, STEPS)


@st.composite
def price_changes(draw: st.DrawFn, session: Session) -> tuple[Value, Version]:
    """A class and state, most often one of the session as it runs then, and a version that it has not."""
    end = session.ran_until(LAST)
    begins = sorted({session.started_at, *(each.begins_at for each in session.segments)})
    running = [each for each in begins if session.started_at <= each < end] or begins
    edge = draw(st.sampled_from(running))
    value = draw(st.one_of(st.just(session.value_at(edge)), st.sampled_from(VALUES)))
    taken = {version.effective_from for version in session.prices[value.price_key]}
    at = draw(st.one_of(st.just(edge), INSTANTS).filter(lambda each: each not in taken))
    return value, draw(versions_from(at))


@st.composite
def versions(draw: st.DrawFn, begins: Sequence[datetime]) -> list[Version]:
    """The versions of one price key, some of them in force from the very begin of a segment."""
    instants = st.one_of(INSTANTS, st.sampled_from(begins)) if begins else INSTANTS
    changes = draw(st.lists(instants, max_size=2, unique=True))
    return [draw(versions_from(edge)) for edge in [FIRST_VERSION_AT, *changes]]


@st.composite
def priced(draw: st.DrawFn, told: st.SearchStrategy[list[dict[str, Any]]]) -> Story:
    """Reports with price versions of their own for each class and state."""
    heard = draw(told)
    begins = begins_of(heard)
    return Story(heard, {value.price_key: draw(versions(begins)) for value in VALUES})


def agreeing(*, max_size: int = 5) -> st.SearchStrategy[Story]:
    """Reports that agree about the class at the start and the user."""
    return priced(st.lists(reports(classes=["alpha"], users=USERS[:1]), min_size=1, max_size=max_size))


def contradicting() -> st.SearchStrategy[Story]:
    """Reports of several classes at the start and users: some of them must be refused, whatever comes first."""
    return priced(st.lists(reports(classes=CLASSES, users=USERS), min_size=2, max_size=6))


@st.composite
def deliveries(draw: st.DrawFn, told: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Every report in any order, some again, some in parts, in batches of any size."""
    arriving = [part for one in told for part in draw(parts(one))]
    again = draw(st.lists(st.sampled_from([*told, *arriving]), max_size=3))
    order = draw(st.permutations(arriving + again))
    cuts = draw(st.lists(st.booleans(), min_size=len(order), max_size=len(order)))
    batches: list[list[dict[str, Any]]] = []
    for one, begins_a_batch in zip(order, cuts, strict=True):
        if begins_a_batch or not batches:
            batches.append([])
        batches[-1].append(one)
    return batches


@st.composite
def parts(draw: st.DrawFn, told: dict[str, Any]) -> list[dict[str, Any]]:
    """One report as it is, or in two parts that were observed together: each has some of its segments."""
    segments = told.get("segments", [])
    if not segments or not draw(st.booleans()):
        return [told]
    places = draw(st.lists(st.integers(0, 1), min_size=len(segments), max_size=len(segments)))
    halves = [[each for each, place in zip(segments, places, strict=True) if place == half] for half in (0, 1)]
    return [report(**(told | {"segments": half})) for half in halves]
