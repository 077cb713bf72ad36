"""Configuration files as operators write them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from usage_tasks.settings import Settings, SettingsError, load_settings

MISSION_FILE = (
    '{"controllerSchedule":"1m","resetUsageSchedule":"24h",'
    '"creditsPerMinuteByWorkspaceClass":{"default":0.5,"large":1.0},'
    '"stripeCredentialsFile":"/etc/gitpod/stripe/credentials.json",'
    '"server":{"port":3000,"address":"0.0.0.0"},"defaultSpendingLimit":{"forTeams":500,"forUsers":100},'
    '"stripePrices":{"individualUsagePriceId":"price_1234","teamUsagePriceId":"price_5678"},'
    '"redis":{"address":"redis:6379"},"serverAddress":"server:3000","gitpodHost":"gitpod.io"}'
)
REQUIRED: dict[str, Any] = {
    "creditsPerMinuteByWorkspaceClass": {"default": 0.5},
    "defaultSpendingLimit": {"forTeams": 500, "forUsers": 100},
}

Load = Callable[..., Settings]
Problems = Callable[..., str]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Load the settings from a file of the required keys and these, or of this text, and this environment."""

    def _load(text: str | None = None, *, environ: dict[str, str] | None = None, **keys: Any) -> Settings:
        file = tmp_path / "usage.json"
        file.write_text(json.dumps(REQUIRED | keys) if text is None else text)
        return load_settings({"USAGE_CONFIG": str(file), **(environ or {})})

    return _load


@pytest.fixture
def problems(load: Load) -> Problems:
    """The message with which these settings are refused."""

    def _problems(*args: Any, **keys: Any) -> str:
        with pytest.raises(SettingsError) as refused:
            load(*args, **keys)
        return str(refused.value)

    return _problems
