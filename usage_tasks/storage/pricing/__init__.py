"""Price versions, and rating as SQL.

Invariant: `rating_sql` equals `domain/rating.py`; a property test holds the two equal.
"""
