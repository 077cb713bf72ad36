"""Customers, subscriptions, invoices and money in Stripe, and what follows from them in the ledger.

A module named `reflect_...` brings the ledger's side in line with an object in Stripe.
Invariant: no transaction is open during a call of Stripe.
"""
