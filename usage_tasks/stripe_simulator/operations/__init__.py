"""The operations of Stripe's API, one module an object."""
