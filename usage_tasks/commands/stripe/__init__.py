"""Commands on what Stripe is sent and what it sends."""
