"""The soak scripts as tests, run by hand: ``pytest -m soak``."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.soak
def test_twenty_seeds_of_kills_change_nothing() -> None:
    done = subprocess.run([sys.executable, "-m", "tests.soak.resume", "20"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.soak
def test_fifty_kills_of_embed_change_nothing() -> None:
    done = subprocess.run([sys.executable, "-m", "tests.soak.embed", "50"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.soak
def test_fifty_kills_of_a_fold_change_nothing() -> None:
    done = subprocess.run([sys.executable, "-m", "tests.soak.fold", "50"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_two_kills_of_a_fold_change_nothing() -> None:
    """The short twin of the above, in every run of the tests."""
    done = subprocess.run([sys.executable, "-m", "tests.soak.fold", "2"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "kills: 2\n" in done.stdout
