"""Who is who: users, teams and their members, and what each of them may do.

Invariant: of an e-mail address only a keyed digest is kept.
"""
