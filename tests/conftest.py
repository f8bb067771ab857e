"""Fixtures of all tests, what makes a run of thousands of them quick, and the check at its end that
nothing was left behind."""

from __future__ import annotations

import gc
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from tests.support.fastlb import FastlbProcess
from tests.support.load import LoadClient
from tests.support.processes import kill_all, new_run_root, processes_of, shared_memory_names
from tests.support.raw_target import RawTarget, Script
from tests.support.targets import DemoTarget, LightTarget

# On slow cores shared with others, the time of one example says nothing.
hypothesis_settings.register_profile(
    "shared cores", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
hypothesis_settings.load_profile("shared cores")

# Collecting makes many objects, and all stay: to look for garbage among them is a waste.
gc.disable()


def pytest_configure(config: pytest.Config) -> None:
    """Where Python writes no bytecode, have the runs and their hundreds of processes share a folder of it.

    Else each of them compiles anew all that it imports, which is a third of its start.
    """
    cache = getattr(config, "cache", None)  # absent with `-p no:cacheprovider`
    if cache is not None and os.environ.pop("PYTHONDONTWRITEBYTECODE", None):
        folder = str(cache.mkdir("bytecode"))
        os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix = folder
        sys.dont_write_bytecode = False


def pytest_collection_finish() -> None:
    """What is there by now stays: the collector of garbage need not look at it during any test."""
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session")
def run_root() -> Iterator[Path]:
    """Holds the run-time folders of the whole session; whoever still belongs to one is a fault."""
    before = shared_memory_names()
    root = new_run_root()
    yield root
    left = processes_of(root)
    kill_all(left)
    shutil.rmtree(root)
    assert not left, f"processes {left} outlived the tests"
    assert shared_memory_names() <= before, "something of fastlb is left in /dev/shm"


@pytest.fixture
def start_fastlb(run_root: Path) -> Iterator[Callable[..., FastlbProcess]]:
    """Starts `fastlb run`: arguments as of FastlbProcess without `root`. All end with the test."""
    with ExitStack() as stack:

        def start(*arguments: str, **options: object) -> FastlbProcess:
            return stack.enter_context(
                FastlbProcess(run_root, *arguments, **options)  # type: ignore[arg-type]
            )

        yield start


@pytest.fixture
def start_demo() -> Iterator[Callable[..., DemoTarget]]:
    """Starts a demo app; it ends with the test."""
    with ExitStack() as stack:

        def start(name: str = "demo", path: Path | None = None) -> DemoTarget:
            return stack.enter_context(DemoTarget(name, path))

        yield start


@pytest.fixture
def start_light() -> Iterator[Callable[..., LightTarget]]:
    """Starts a light app; it ends with the test."""
    with ExitStack() as stack:

        def start(name: str = "light", path: Path | None = None) -> LightTarget:
            return stack.enter_context(LightTarget(name, path))

        yield start


@pytest.fixture
def start_raw_target() -> Iterator[Callable[..., RawTarget]]:
    """Starts a RawTarget with a script; it ends with the test."""
    with ExitStack() as stack:

        def start(script: Script | None = None, **options: int) -> RawTarget:
            return stack.enter_context(RawTarget(script, **options))

        yield start


@pytest.fixture
def start_load() -> Iterator[Callable[..., LoadClient]]:
    """Starts a load client: arguments as of LoadOptions. It ends with the test."""
    with ExitStack() as stack:

        def start(port: int, **options: object) -> LoadClient:
            return stack.enter_context(LoadClient(port, **options))

        yield start
