"""Stripe's events as they were received, their review, and the progress through Stripe's own list of them."""
