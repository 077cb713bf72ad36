"""Commands that ask the ledger and set prices."""
