"""The directory: users, teams and their members, and the rights of each.

Invariant: only a keyed digest of an e-mail address is kept.
"""
