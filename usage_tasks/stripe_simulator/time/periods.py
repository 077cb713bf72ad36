"""Billing periods: anchored calendar months, so that 31 January is followed by 28 February and 31 March."""

import calendar
from datetime import UTC, datetime, timedelta

_MONTHS = {"month": 1, "year": 12}
_DAYS = {"day": 1, "week": 7}


def period_end(*, anchor: int, start: int, interval: str, count: int) -> int:
    """The end of the period that starts at `start`, all as Unix times; the anchor fixes the day and the hour.

    The day is always taken from the anchor, never from the period before: a short month doesn't shorten the next.
    """
    if interval in _DAYS:
        return start + int(timedelta(days=_DAYS[interval] * count).total_seconds())
    first, current = _utc(anchor), _utc(start)
    months = (current.year - first.year) * 12 + current.month - first.month
    return int(_add_months(first, months + _MONTHS[interval] * count).timestamp())


def _add_months(moment: datetime, months: int) -> datetime:
    year, month = divmod(moment.year * 12 + moment.month - 1 + months, 12)
    day = min(moment.day, calendar.monthrange(year, month + 1)[1])
    return moment.replace(year=year, month=month + 1, day=day)


def _utc(unix: int) -> datetime:
    return datetime.fromtimestamp(unix, UTC)
