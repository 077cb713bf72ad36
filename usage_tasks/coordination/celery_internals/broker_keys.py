"""Keys of the broker's Redis, read on the connection that sends messages. Light: the receiver uses it."""

from typing import Any

from kombu import Connection


def read_key(connection: Connection, name: str) -> str | None:
    """Return the text of a key, named without the `global_keyprefix`; None if it is missing.

    Internal: `client` and `global_keyprefix` of kombu's Redis channel, 5.7; its client puts no prefix before a GET. A
    connection of its own could reach another server than the messages do.
    """
    channel: Any = connection.default_channel
    held = channel.client.get(f"{channel.global_keyprefix}{name}")
    return None if held is None else held.decode(errors="replace")
