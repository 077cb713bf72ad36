"""What processes agree on through Redis.

Owns the test clock of an installation. Does not own anything that must not be lost: that is in PostgreSQL.
Invariant: with Redis flushed the system is slower or stops, and never wrong.
"""
