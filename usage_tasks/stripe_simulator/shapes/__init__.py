"""The shapes of Stripe's objects and lists."""
