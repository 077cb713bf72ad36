"""What a worker or a beat does beside its tasks: heartbeats, shutdown, poison messages.

Owns the hooks into the life of a Celery process. Does not own tasks (`tasks`) or what Redis keeps (`coordination`).
"""
