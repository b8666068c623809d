"""Fixtures for all tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.pool import Pool


@pytest.fixture(scope="session")
def ranks() -> Iterator[Pool]:
    """Gloo ranks on this machine: ``ranks.run(function, size, *arguments)``; see ``tests.pool``."""
    pool = Pool()
    yield pool
    pool.close()
