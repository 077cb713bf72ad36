"""The rules, pure: credits, rating, cycles, cost centers, ledger kinds, limits, accounts, invoices, errors.

Owns every decision that money hangs on, as functions of values. Some of them run in production as SQL only: then the
functions here are oracles, and a property test holds the two equal (docs/mutation.md lists them). Does not own storage,
transport or time: nothing here reads a clock, the environment, a random source or a network, and no I/O library is
imported.
Invariants: integers and exact decimals only; datetimes are aware and UTC; the same input gives the same output.
"""
