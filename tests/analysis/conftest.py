"""The small data and run directories of the methods' tests."""

from tests.train.conftest import small, small_runs

__all__ = ["small", "small_runs"]
