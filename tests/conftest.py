"""Fixtures that several test files share."""

import signal
from pathlib import Path

import pytest
from hypothesis import settings

# A shell's background job ignores Ctrl-C, and its children would too: the tests that press it need it heard.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples in every run: a submission fails for what it changed, not for the day's luck.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real photos beside the checkout; tests that need it skip where it is absent."""
    folder = ROOT.parent / "shared"
    if not (folder / "data").is_dir():
        pytest.skip("real photos are not here (no ../shared/data)")
    return folder
