"""Customers, subscriptions, invoices and money in Stripe, and what follows from them in the ledger.

A module named `reflect_...` brings the ledger's side to what an object in Stripe says.
Invariant: no transaction is open during a call of Stripe.
"""
