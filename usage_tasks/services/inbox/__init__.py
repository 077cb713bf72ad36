"""Stripe's events: received once, applied in any order, searched for if they never came, reviewed by people.

Invariant: an event is stored before it is applied, and applied in the transaction that settles it.
"""
