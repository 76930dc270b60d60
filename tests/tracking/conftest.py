"""A new SQLite store for each test of tracking."""

from pathlib import Path

import pytest


@pytest.fixture
def database(store: Path) -> Path:
    return store


@pytest.fixture
def uri(database: Path) -> str:
    return f"sqlite:///{database}"
