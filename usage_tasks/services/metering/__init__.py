"""Reporting usage to Stripe: decide quantities, send them, compare them with Stripe, park them if Stripe refuses.

Invariant: a quantity and its identifier are stored before they are sent.
"""
