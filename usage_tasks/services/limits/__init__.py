"""Limits: the entitlement of an account, and the balances published in Redis.

Invariant: no balance is ever read back from Redis.
"""
