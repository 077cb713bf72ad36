"""The fixtures of tests that bill through the stand-in for Stripe."""

from tests.stripe_world.fixtures import bench, broker, environment, mortals, world

__all__ = ["bench", "broker", "environment", "mortals", "world"]
