"""`usage-tasks demo`: a real cluster's quarter, metered, priced, limited, reset, invoiced and reconciled.

Owns a whole installation on loopback (servers, Stripe's stand-in, receiver, workers, beat, Flower), the replay of the
quarter by `at`, and the report that compares what came out. Does not own any rule: it speaks to the system only as
operators and other services do, by Celery tasks, and to the stand-in by HTTP.
Invariants: nothing listens on other than loopback; nothing is left running; the exit code is 0 only if all holds.
"""
