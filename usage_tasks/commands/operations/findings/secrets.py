"""Secrets that are missing: Stripe's key and webhook secrets, the key of the directory.

In a container for each process only some have a secret. So what is missing here is a finding only if nothing shows that
another process has it.
"""

from usage_tasks.commands.operations.findings.finding import (
    DoctorFinding,
    Examination,
    Findings,
    count,
    describe_error,
    fine,
    look,
    wrong,
)
from usage_tasks.settings import SettingsError, read_directory_key, read_stripe_credentials
from usage_tasks.storage.operations.evidence import has_email_digests, has_webhook_events, read_stripe_work


def look_at_secrets(it: Examination) -> Findings:
    """Look for each secret that is in use and is not here; needs the database, and asks the workers."""
    yield from _stripe_key(it)
    yield from _webhook_secrets(it)
    yield from _directory_key(it)


def _stripe_key(it: Examination) -> Findings:
    if not it.uses_stripe:
        yield _unconfigured(it)
        return
    try:
        read_stripe_credentials(it.rt.settings, it.environ).get_secret_key()
    except SettingsError as error:
        if any(map(it.is_served_elsewhere, ("billing", "stripe"))):
            yield fine("stripe", "no key here; the workers that call Stripe are on another host")
        else:
            advice = "Set STRIPE_SECRET_KEY or stripeCredentialsFile for the workers of the queues billing and stripe."
            yield look("stripe", describe_error(error), advice)


def _unconfigured(it: Examination) -> DoctorFinding:
    with it.rt.transaction() as connection:
        work = read_stripe_work(connection)
    waiting = [count(work.accounts, "account") + f" on stripe, such as {work.account}"] if work.accounts else []
    waiting += [count(work.events, "pending event")] if work.events else []
    if not waiting:
        return fine("stripe", "not configured: no prices and no key")
    return wrong(
        "stripe",
        f"not configured (no prices and no key), and work waits for it: {'; '.join(waiting)}",
        "Set stripePrices, and stripeCredentialsFile or STRIPE_SECRET_KEY, or set the accounts to strategy other.",
    )


def _webhook_secrets(it: Examination) -> Findings:
    if not it.rt.settings.stripe_prices.by_key():
        return
    try:
        read_stripe_credentials(it.rt.settings, it.environ).get_webhook_secrets()
    except SettingsError as error:
        with it.rt.transaction() as connection:
            received = has_webhook_events(connection)
        # A worker's environment has the key alone; then the receiver has the secrets, as what it received shows.
        if received or not it.rt.settings.stripe_credentials_file:
            yield fine("webhook", "no webhook secret here; the receiver has its own")
        else:
            yield look(
                "webhook",
                f"{describe_error(error)}, and no event has come by webhook",
                "Set webhookKey in stripeCredentialsFile, or STRIPE_WEBHOOK_SECRET, for `usage-tasks webhook`.",
            )
    else:
        yield fine("webhook", "the receiver's secrets are here")


def _directory_key(it: Examination) -> Findings:
    try:
        read_directory_key(it.rt.settings, it.environ)
    except SettingsError as error:
        advice = (
            "Set USAGE_DIRECTORY_KEY or directoryKeyFile for the workers of the queue directory: the key of before."
        )
        given = it.rt.settings.directory_key_file or it.environ.get("USAGE_DIRECTORY_KEY")
        with it.rt.transaction() as connection:
            used = has_email_digests(connection)
        if it.is_served_elsewhere("directory"):
            yield fine("directory", "no key here; the workers of the directory are on another host")
        elif given:
            yield wrong("directory", describe_error(error), advice)
        elif used:
            yield look(
                "directory", f"e-mails are stored under a key, and here is none: {describe_error(error)}", advice
            )
        else:
            yield fine("directory", "no key, and no e-mail is stored")
    else:
        yield fine("directory", "the key is here")
