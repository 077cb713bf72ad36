"""What a bank does: cards, payments, disputes."""
