"""The findings of `usage-tasks doctor`, a module for each area that it looks at.

Owns the checks and their words. Does not own what it reads: each check asks a service, storage or coordination.
Invariants: a check reads and never writes; an area that cannot be asked is a finding and hides no other; every finding
that is not fine names a thing to do.
"""
