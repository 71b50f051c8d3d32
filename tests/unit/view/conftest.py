"""What the viewer's tests share."""

import pytest


@pytest.fixture
def workspace(scored_workspace):
    """Three scored cases: bad, fair and good."""
    return scored_workspace
