"""What processes agree on through Redis.

Owns the test clock of an installation, the snapshot of balances that other services read, and the turns in which
Stripe is called. Does not own anything that must not be lost: that is in PostgreSQL.
Invariants: no balance is ever read back from here; with Redis flushed the system is slower or stops, and never wrong.
"""
