"""One small cohort a setting, made once a session."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from domains.pathology.phantom import make

PATIENTS = 12


@pytest.fixture(scope="session")
def cohorts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the cohorts of this session are kept."""
    return tmp_path_factory.mktemp("phantoms")


@pytest.fixture(scope="session")
def cohort(cohorts: Path) -> Path:
    """Folder of a small linked cohort."""
    return make(cohorts, seed=3, patients=PATIENTS).parent


@pytest.fixture(scope="session")
def manifest(cohort: Path) -> pd.DataFrame:
    """Its manifest."""
    return pd.read_csv(cohort / "manifest.csv", keep_default_na=False)
