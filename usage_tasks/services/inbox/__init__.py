"""What Stripe tells: events received once, applied in any order, looked for where none came, reviewed by people.

Invariant: an event is stored before it is applied, and applied in the transaction that settles it.
"""
