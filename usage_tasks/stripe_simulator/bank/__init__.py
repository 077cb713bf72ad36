"""The behaviour of a bank: cards, payments, disputes."""
