"""Fixtures that several test files share."""

import atexit
import contextlib
import ctypes
import os
import shutil
import signal
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

# Two tests at once on two cores: threads that spin while they wait would take turns with those that work.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# A shell's background job ignores Ctrl-C, and its children would too: the tests that press it need it heard.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Large tensors go back to the system as soon as they are let go: glibc would keep them, and a worker only grow.
M_MMAP_THRESHOLD = -3  # malloc.h
with contextlib.suppress(OSError, AttributeError):  # another C library
    ctypes.CDLL("libc.so.6").mallopt(M_MMAP_THRESHOLD, 1 << 20)

# The same examples in every run: a submission fails for what it changed, not for the day's luck.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")

# What DVC keeps of repositories that are gone by then is not the user's to keep.
if "DVC_SITE_CACHE_DIR" not in os.environ:
    os.environ["DVC_SITE_CACHE_DIR"] = tempfile.mkdtemp(prefix="palimpsest-tests-")
    atexit.register(shutil.rmtree, os.environ["DVC_SITE_CACHE_DIR"], ignore_errors=True)

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real photos beside the checkout; tests that need it skip where it is absent."""
    folder = ROOT.parent / "shared"
    if not (folder / "data").is_dir():
        pytest.skip("real photos are not here (no ../shared/data)")
    return folder
