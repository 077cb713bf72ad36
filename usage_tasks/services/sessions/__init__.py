"""Sessions: their reports, snapshots of running ones, zombies and quarantine.

Owns how a batch of reports is recorded, by task or by file. Does not own prices or the ledger.
Invariants: any order of reports ends in the same facts; a refused report is kept in quarantine, never lost.
"""
