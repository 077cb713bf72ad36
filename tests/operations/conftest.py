"""The fixtures of tests that let every context write."""

from tests.stripe_world.fixtures import bench, world

__all__ = ["bench", "world"]
