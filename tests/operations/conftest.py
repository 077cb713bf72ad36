"""The fixtures of tests that let every context write."""

from tests.stripe_world.fixtures import bench, broker, environment, world

__all__ = ["bench", "broker", "environment", "world"]
