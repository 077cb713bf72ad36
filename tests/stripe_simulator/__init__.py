"""Tests of the Stripe stand-in: the official SDK over HTTP, every exchange held against Stripe's own description."""
