"""Tasks of the queue `usage`: their names begin with `usage.`."""
