"""The system's actions, one verb per file: read, decide, write.

Owns the order of steps and what one transaction holds. Does not own arithmetic (domain), SQL (storage), the wire
(tasks) or the process (runtime): connections, gateways and instants come as arguments.
Invariants: a ledger service is one transaction and no network; a Stripe service claims, calls and settles with no
transaction open during the call; running twice equals running once, and a constraint proves it.
"""
