"""A stateful HTTP stand-in for Stripe's API, version 2026-10-28.endive, for tests and the demo.

Owns: the part of the API this project calls (customers, catalogue, meters, subscriptions, invoices, payments by card,
refunds, disputes, credit notes, alerts, events, test clocks), its state in one SQLite file, the clock that drives
billing cycles, the delivery of signed webhooks, and misbehaviour on demand: faults, unruly deliveries, errors
reported later, a search that lags (docs/stripe-contract.md).

Does not own: anything of the system that stands beside it. It imports neither `stripe` nor another floor of
usage_tasks, so a test that passes against it has gone through the official SDK and a real socket. No payment
methods but Stripe's test cards, no setup intents, amounts of tax, discounts, trials or prorations: a parameter that
isn't simulated is refused, never ignored.

Invariants:
- One process, one lock, one database transaction a request: a reply that was sent is on disk, with its events.
- The clock never moves back; what is due runs in the order of time, each thing once.
- Unless switched otherwise events are delivered in the order they happened, at least once; a later one waits behind an
  earlier one.
- A fault before the effect leaves nothing behind, a fault after it takes away the reply only; each fault is recorded.
- Webhooks are sent outside the lock: a slow receiver never slows the API.
- No two processes drive one state: the file is locked.
- Of a card's number the last four digits are kept, nothing else; a real card's number is refused.

Folders, each importing only later ones: `http` (server, application, routes below /_simulator/), `simulator` (one
request: key, idempotency, transaction), `operations` (one module per object), `time` (effects of time), `bank`
(behaviour of a bank), `shapes` (objects and lists), `state` (store, world, switches, faults, webhooks), `wire` (forms,
parameters, errors).
"""

from usage_tasks.stripe_simulator.http.app import make_app
from usage_tasks.stripe_simulator.http.server import serve
from usage_tasks.stripe_simulator.simulator import Settings, Simulator

__all__ = ["Settings", "Simulator", "make_app", "serve"]
