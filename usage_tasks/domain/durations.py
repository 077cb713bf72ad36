"""Durations as Go reads them: `90s`, `1h30m`, `1.5h`, `100ms`.

The configuration file is the original's, and Go's `time.ParseDuration` defines what its strings mean.
Go counts nanoseconds, a `timedelta` microseconds: what is finer is cut off, towards zero.
"""

import re
from datetime import timedelta
from typing import Final

_NANOSECONDS: Final = {
    "ns": 1,
    "us": 1_000,
    "\N{MICRO SIGN}s": 1_000,
    "\N{GREEK SMALL LETTER MU}s": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60 * 1_000_000_000,
    "h": 3600 * 1_000_000_000,
}
_NANOSECONDS_MAX: Final = 2**63 - 1
_TEXT_LENGTH_MAX: Final = 200
# Only ASCII digits: \d would let other scripts' digits pass, which Go refuses.
_TERM: Final = re.compile(r"(?P<whole>[0-9]*)(?:\.(?P<fraction>[0-9]*))?(?P<unit>[^0-9.]*)")


def parse_duration(text: str) -> timedelta:
    """Return a duration, read as Go's time.ParseDuration reads it. Raises ValueError with the reason."""
    if len(text) > _TEXT_LENGTH_MAX:
        raise ValueError(f"a duration has at most {_TEXT_LENGTH_MAX} characters, this one has {len(text)}")
    negative = text.startswith("-")
    terms = text[1:] if text[:1] in {"-", "+"} else text
    if not terms:
        raise ValueError(f"{text!r} is no duration")
    nanoseconds = 0 if terms == "0" else _sum_terms(text, terms)
    # Like Go's int64, the range reaches one nanosecond further below zero than above.
    if nanoseconds > _NANOSECONDS_MAX + negative:
        raise ValueError(f"{text!r} is longer than the longest duration, about 292 years")
    magnitude = timedelta(microseconds=nanoseconds // 1_000)
    return -magnitude if negative else magnitude


def format_duration(duration: timedelta) -> str:
    """Write a duration of 0 or more as `parse_duration` reads it: `24h`, `1h30m`, `1.5s`."""
    seconds, microseconds = divmod(duration // timedelta(microseconds=1), 1_000_000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    fraction = f".{microseconds:06}".rstrip("0") if microseconds else ""
    terms = f"{hours}h" * (hours > 0) + f"{minutes}m" * (minutes > 0)
    return terms + f"{seconds}{fraction}s" if seconds or fraction or not terms else terms


def _sum_terms(text: str, terms: str) -> int:
    nanoseconds, position = 0, 0
    while position < len(terms):
        term = _TERM.match(terms, position)
        if term is None or not (term["whole"] or term["fraction"]):
            raise ValueError(f"{text!r} is no duration")
        if not term["unit"]:
            raise ValueError(f"{text!r} lacks a unit: ns, us, ms, s, m or h")
        if term["unit"] not in _NANOSECONDS:
            raise ValueError(f"{text!r} has the unknown unit {term['unit']!r}: ns, us, ms, s, m and h are known")
        nanoseconds += _term_nanoseconds(term["whole"], term["fraction"] or "", _NANOSECONDS[term["unit"]])
        position = term.end()
    return nanoseconds


def _term_nanoseconds(whole: str, fraction: str, unit: int) -> int:
    # The nearest nanosecond, so that 0.3333333333333333333h is 20 minutes, as in Go's own tests.
    scale = int("1" + "0" * len(fraction))
    return int(whole or "0") * unit + (2 * int(fraction or "0") * unit + scale) // (2 * scale)
