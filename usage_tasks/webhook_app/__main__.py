"""`python -m usage_tasks.webhook_app ADDRESS PORT`: the receiver and nothing else in the process."""

import sys

from usage_tasks.webhook_app.serving import serve

if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
