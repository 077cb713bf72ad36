"""Tasks of the queue `stripe`: their names begin with `stripe.`."""
