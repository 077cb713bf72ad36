"""Quantities for Stripe: what is decided, what waits to be sent, what differs."""
