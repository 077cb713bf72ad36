"""The wire protocol: task names, arguments, promises. Each task validates, opens the transaction, calls one service.

Owns names (never renamed; the prefix chooses the queue), argument models, retry policies, and the gate that admits an
actor. Does not own rules.
Invariants: JSON only; arguments are ids, numbers and ISO strings; a bad argument fails at once and is not retried;
no task waits for another.
"""
