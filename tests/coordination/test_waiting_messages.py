"""The list of messages that wait for a newer version."""

import redis

from usage_tasks.coordination.waiting_messages import (
    WaitingMessage,
    claim_message,
    count_waiting,
    find_waiting,
    keep_message,
    list_waiting,
    read_page,
    remove_message,
)

MESSAGE = WaitingMessage(
    task_id="one",
    task="usage.new",
    queue="usage",
    args=0,
    kwargs=["at"],
    reason="no such task",
    refused_by=[],
    answer_awaited=False,
    expires=None,
    waits_since="2026-01-01T00:00:00+00:00",
)


def test_a_message_that_is_kept_anew_while_it_is_sent_stays(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        keep_message(client, MESSAGE, {"body": 1})
        (before,) = read_page(client, 0)[1]
        keep_message(client, MESSAGE, {"body": 1})  # an older worker has taken it once more
        remove_message(client, before)
        after = find_waiting(client, "one")
        assert after is not None
        assert after.message == before.message == MESSAGE
        assert claim_message(client, "one") == {"body": 1}
        remove_message(client, after)
        assert (count_waiting(client), client.keys("usage:waiting*")) == (0, [])


def test_one_process_sends_a_message_and_another_leaves_it_alone_meanwhile(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        keep_message(client, MESSAGE, {})
        assert (claim_message(client, "one"), claim_message(client, "one")) == ({}, None)


def test_what_a_newer_version_stores_beside_is_ignored(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        keep_message(client, MESSAGE, {})
        (text,) = client.hvals("usage:waiting")
        client.hset("usage:waiting", "one", text.replace(b"{", b'{"colour": "red", ', 1))
        assert list_waiting(client) == [MESSAGE]
