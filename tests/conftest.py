"""Fixtures that several test files share."""

import atexit
import contextlib
import ctypes
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import forked
import pytest
from hypothesis import settings

from flows.process import file_lock

if TYPE_CHECKING:
    from stages.images.faces import YuNet

# More tests at once than cores: threads that spin while they wait would take turns with those that work.
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

# Nothing is signed with the user's own key.
os.environ.pop("PALIMPSEST_KEY", None)
os.environ["XDG_CONFIG_HOME"] = tempfile.mkdtemp(prefix="palimpsest-tests-")
atexit.register(shutil.rmtree, os.environ["XDG_CONFIG_HOME"], ignore_errors=True)

# What DVC keeps of repositories that are gone by then is not the user's to keep.
if "DVC_SITE_CACHE_DIR" not in os.environ:
    os.environ["DVC_SITE_CACHE_DIR"] = tempfile.mkdtemp(prefix="palimpsest-tests-")
    atexit.register(shutil.rmtree, os.environ["DVC_SITE_CACHE_DIR"], ignore_errors=True)

ROOT = Path(__file__).parent.parent


# These take longest, so they begin first; else one of them would run alone in the end. The second and the third need no
# Prefect, whose database the first one makes.
FIRST = (
    "test_retrain.py", "test_pipeline.py", "test_distributed.py", "test_study.py", "test_rebuild.py",
    "test_schedule.py", "test_dask.py", "test_prefect_server.py", "test_training.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: FIRST.index(item.path.name) if item.path.name in FIRST else len(FIRST))


def pytest_xdist_setupnodes(specs: list[Any]) -> None:
    """The test processes need not import the libraries either: `specs` say how execnet is to begin them."""
    for spec in specs:
        spec.python = shlex.quote(forked.python())


@pytest.fixture(scope="session")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A temporary folder that all test processes share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def prefect_database(together: Path) -> Path:
    """An empty database of Prefect's server, made once for all: it takes a server nine seconds."""
    home = together / "prefect-database"
    with file_lock.lock(home.with_suffix(".lock")):
        if not home.exists():
            words = [forked.python(), "-m", "prefect", "server", "database", "upgrade", "-y"]
            environment = {**os.environ, "DO_NOT_TRACK": "1", "PREFECT_HOME": f"{home}.draft"}
            subprocess.run(words, env=environment, check=True, capture_output=True)
            Path(f"{home}.draft").rename(home)
    return home / "prefect.db"


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """A headless `browser.Browser`; tests that need it skip where no chromium is installed."""
    import browser

    if not browser.PROGRAM:
        pytest.skip("no chromium is installed (on Debian and Ubuntu: apt install chromium)")
    with browser.start() as started:
        yield started


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real photos beside the checkout; tests that need it skip where it is absent."""
    folder = ROOT.parent / "shared"
    if not (folder / "data").is_dir():
        pytest.skip("real photos are not here (no ../shared/data)")
    return folder


@pytest.fixture(scope="session")
def yunet(shared: Path) -> "YuNet":
    from stages.images.faces import YuNet

    return YuNet(shared / "weights" / "face_detection_yunet_2023mar.onnx")


@pytest.fixture(scope="session")
def celeba(shared: Path) -> list[Path]:
    """The photos of CelebA, in their order."""
    return sorted((shared / "data" / "celeba" / "img_align_celeba").glob("*.jpg"))
