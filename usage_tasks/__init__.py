"""Usage billing on Celery: sessions into credits, credits into an immutable ledger, the ledger into Stripe.

The floors, from the top: entry points (`cli`, `webhook_app`, `celery`), `tasks` (the wire protocol), `runtime`,
`services` (one verb a file), `storage`, `stripe_gateway`, `coordination`, `telemetry`, `settings`, `domain`.
Imports go downwards only; `make lint` enforces it. docs/adr has the decisions.
"""
