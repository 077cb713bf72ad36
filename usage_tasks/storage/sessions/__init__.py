"""Sessions as they were reported: merging, bulk copies, snapshots of sources, zombies, quarantine.

Invariant: the greatest report of a session holds, whatever the order of arrival (docs/adr/0006).
"""
