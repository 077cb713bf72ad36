"""The ledger: entries, posting, balances, grants, cost centers, and every reading of them.

Invariants: an entry is never changed or deleted; its natural key is unique in its account.
"""
