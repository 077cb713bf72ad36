"""PostgreSQL: the schema, its migrations, and set-based statements, one module a table family.

Owns every SQL statement of the system. Does not own decisions (domain) or when to commit (services, tasks): each
function takes a Connection and reads or writes in the caller's transaction; only `Database.transaction` commits.
Invariants, each a constraint or a trigger and not a habit: a ledger entry is never changed or deleted; an effect's
natural key is unique; an account's balance row is the sum of its entries; one open subscription an account; one
cost center version after the other.
"""
