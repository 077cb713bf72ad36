"""The work of a worker or a beat beside its tasks: heartbeats, shutdown, poison and unreadable messages.

Owns the hooks into the life of a Celery process. Does not own tasks (`tasks`) or the state in Redis (`coordination`).
"""
