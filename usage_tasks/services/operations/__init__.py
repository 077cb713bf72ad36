"""The running of the system itself: the standing of its jobs, and the verification of its ledger."""
