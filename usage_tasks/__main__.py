"""Where `usage-tasks` begins: a probe is answered without what everything else imports."""

import sys


def main() -> None:
    """Run the command line."""
    if sys.argv[1:2] == ["health"]:
        from usage_tasks import health  # noqa: PLC0415 - a probe pays for nothing else

        sys.exit(health.main(sys.argv[2:]))
    from usage_tasks.cli import main as run  # noqa: PLC0415 - as above

    run()


if __name__ == "__main__":
    main()
