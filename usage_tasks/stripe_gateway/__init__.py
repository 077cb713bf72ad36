"""The only place that talks to Stripe or imports its SDK.

Owns the protocol that services call, in domain types (`protocol`), the live client (`live`), the translation of the
SDK's errors, and the verification of webhooks (`webhooks`). Does not own what is decided or stored.
Invariants: every call has a time-out; every call that makes something carries an idempotency key that was stored
before it; no secret and nothing personal is in an error's message.
"""
