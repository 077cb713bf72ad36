"""Tasks of the queue `billing`: their names begin with `billing.`."""
