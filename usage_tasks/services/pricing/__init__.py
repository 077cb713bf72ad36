"""Pricing: price versions added by hand, and the explanation of a charge.

Does not own the rating itself: `domain/rating.py` and its twin `storage/pricing/rating_sql.py`.
"""
