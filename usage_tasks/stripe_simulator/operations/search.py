"""Stripe's search language, as far as customers are searched: clauses joined by AND or by OR, never by both."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from usage_tasks.stripe_simulator.state.store import Store
from usage_tasks.stripe_simulator.wire.errors import ApiError
from usage_tasks.stripe_simulator.wire.wire import JsonObject

CLAUSES_MAX = 10
_STRING = r"(?:'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")"
_CLAUSE = re.compile(rf"\s*(-?)(?:metadata\[({_STRING})\]|(email|name|phone))\s*([:~])\s*({_STRING})\s*")
_JOIN = re.compile(r"(AND|OR)(?=\s)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Clause:
    """One condition on a field or on a metadata key: equal, or containing."""

    field: str
    value: str
    metadata: bool
    negated: bool
    contains: bool

    def holds(self, customer: JsonObject) -> bool:
        found = customer["metadata"].get(self.field) if self.metadata else customer.get(self.field)
        if found is None:
            return self.negated
        same = self.value.lower() in found.lower() if self.contains else self.value == found
        return bool(same) != self.negated


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    clauses: tuple[Clause, ...]
    any_of: bool

    def holds(self, customer: JsonObject) -> bool:
        results = (clause.holds(customer) for clause in self.clauses)
        return any(results) if self.any_of else all(results)


def parse_query(text: str) -> Query:
    """Return a parsed query. Raises ApiError 400 for a query that Stripe would refuse or that is not simulated."""
    clauses: list[Clause] = []
    joins: set[str] = set()
    position = 0
    while True:
        match = _CLAUSE.match(text, position)
        if match is None:
            raise _refused(text)
        clauses.append(_clause(match))
        position = match.end()
        if position == len(text):
            break
        join = _JOIN.match(text, position)
        if join is None:
            raise _refused(text)
        joins.add(join[1])
        position = join.end()
    if len(joins) > 1 or len(clauses) > CLAUSES_MAX:
        raise _refused(text)
    return Query(clauses=tuple(clauses), any_of=joins == {"OR"})


def _clause(match: re.Match[str]) -> Clause:
    key, field, operator, value = match[2], match[3], match[4], match[5]
    name = field if key is None else _unquote(key)
    return Clause(
        field=name,
        value=_unquote(value),
        metadata=key is not None,
        negated=match[1] == "-",
        contains=operator == "~",
    )


def _unquote(quoted: str) -> str:
    return re.sub(r"\\(.)", r"\1", quoted[1:-1])


def _refused(text: str) -> ApiError:
    message = f"We were unable to parse your search query, or it is not simulated: {text}"
    return ApiError(message, code="query_invalid", param="query")


def search_customers(store: Store, query: Query) -> Iterator[JsonObject]:
    """The customers a query finds, newest first; equal metadata is looked up, anything else is scanned for."""
    lookup = all(clause.metadata and not clause.negated and not clause.contains for clause in query.clauses)
    found = _by_metadata(store, query) if lookup else store.scan("customer")
    return (customer for customer in found if not customer.get("deleted") and query.holds(customer))


def _by_metadata(store: Store, query: Query) -> Iterator[JsonObject]:
    candidates: dict[str, int] = {}
    sql = (
        "SELECT o.seq, o.id FROM metadata m JOIN object o ON o.type = m.type AND o.id = m.id"
        " WHERE m.type = 'customer' AND m.key = :key AND m.value = :value"
    )
    for clause in query.clauses:
        candidates |= {identifier: seq for seq, identifier in store.rows(sql, key=clause.field, value=clause.value)}
    for identifier in sorted(candidates, key=candidates.__getitem__, reverse=True):
        customer = store.find("customer", identifier)
        if customer is not None:
            yield customer
