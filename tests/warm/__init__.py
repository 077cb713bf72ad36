"""Start Celery's workers and beats as forks of a process that has imported what they import: 1 CPU second less a start.

Owns that process and the way to it. Not for the tests of a start itself, nor for another Python than that of the tests.
Invariants: a forked process is a child of the test process, in a process group of its own, with the ordered environment
and the signal dispositions of a fresh interpreter; the process that forks has imported nothing that reads settings.
"""
