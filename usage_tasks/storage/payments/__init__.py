"""Stripe's customers, subscriptions, invoices, holds and disputes, and what the system did about them."""
