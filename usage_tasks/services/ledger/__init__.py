"""The ledger: posting, resets, grants, credit notes, cost centers, and the reading of usage.

Owns the order of the steps of the ledger job. Does not own statements (`storage/ledger`).
Invariants: entries are only appended; entries are inserted in account order, so concurrent workers cannot deadlock.
"""
