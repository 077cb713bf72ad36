"""Which installation a Redis belongs to, and which Redis an installation may use."""
