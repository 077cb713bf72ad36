"""The configuration files that the documentation shows can be loaded."""

import re
from datetime import timedelta
from pathlib import Path

from usage_tasks.settings import load_settings

ROOT = Path(__file__).parents[2]


def test_the_example_of_a_deployment_loads() -> None:
    settings = load_settings({"USAGE_CONFIG": str(ROOT / "deploy" / "config.example.json")})
    assert settings.stripe_prices.price_id("team", "eur") == "price_team_eur"
    assert settings.redis_url == "redis://valkey:6379/0"


def test_the_example_of_the_guide_loads(tmp_path: Path) -> None:
    shown = re.findall(r"```json\n(\{.*?\n\})\n```", (ROOT / "docs" / "guides" / "operate.md").read_text(), re.DOTALL)
    (tmp_path / "config.json").write_text(shown[0])
    settings = load_settings({"USAGE_CONFIG": str(tmp_path / "config.json")})
    assert settings.controller_schedule == timedelta(minutes=1)
    assert settings.heartbeat_grace is None
