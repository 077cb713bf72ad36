"""The state: the store, the world in it, switches, faults, and webhooks on their way."""
