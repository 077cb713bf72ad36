"""The state that processes share through Redis.

Owns the test clock of an installation, the locks of jobs, the turns in which Stripe is called, dead letters, the
snapshot of balances that other services read, and every use of internal APIs of the broker's libraries
(`celery_internals`). Does not own anything that must not be lost: that is in PostgreSQL.
Invariants: no balance is ever read back from here; with Redis flushed the system is slower or stops, and never wrong.
"""
