"""The configuration of an installation: one JSON file, overridden by the environment, validated as a whole.

Owns the keys, their types and defaults, and the messages about what is wrong with them. Does not own Celery's
settings (celeryconfig.py), nor who may read secrets: Stripe's are read only where Stripe is called, the directory's key
only where an e-mail is digested.
Invariants: a Settings is valid and frozen; prices are exact decimals; no message and no repr shows a password
or a key.
"""

from usage_tasks.settings.credentials import (
    StripeCredentials,
    is_stripe_configured,
    read_directory_key,
    read_stripe_credentials,
)
from usage_tasks.settings.errors import SettingsError, StripeNotConfiguredError
from usage_tasks.settings.load import load_settings
from usage_tasks.settings.model import AccountKind, Settings, SpendingLimitSettings, StripePrices
from usage_tasks.settings.printing import print_settings, without_password

__all__ = [
    "AccountKind",
    "Settings",
    "SettingsError",
    "SpendingLimitSettings",
    "StripeCredentials",
    "StripeNotConfiguredError",
    "StripePrices",
    "is_stripe_configured",
    "load_settings",
    "print_settings",
    "read_directory_key",
    "read_stripe_credentials",
    "without_password",
]
