"""What Stripe is told of usage: quantities decided, sent, compared with Stripe, and parked where Stripe refuses them.

Invariant: a quantity and its identifier are stored before they are sent.
"""
