"""What several test modules share: trees that are made once a session, and a cache folder that holds the demo's."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

# Those that look at what is mounted on this machine, or mount without saying so.
_SEE_MOUNTS = {"test_auth", "test_lmdbmerge", "test_start"}
# Those that mount in machines of their own (tests/machine.py), beside which others may mount here.
_ELSEWHERE = {"test_systemd", "test_helper"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests that mount say so when the machine cannot. Where tests run in several processes, these run in one: they
    count mounts and requests, and share two cores with daemons as it is."""
    for item in items:
        if Path(item.fspath).stem in _ELSEWHERE:
            item.add_marker(pytest.mark.xdist_group("machines"))
        elif "mount" in item.keywords or Path(item.fspath).stem in _SEE_MOUNTS:
            item.add_marker(pytest.mark.xdist_group("mount"))
    if os.path.exists("/dev/fuse"):
        return
    skip = pytest.mark.skip(reason="there is no /dev/fuse here: nothing can be mounted")
    for item in items:
        if "mount" in item.keywords:
            item.add_marker(skip)


def pytest_make_parametrize_id(val: object) -> str | None:
    """Of a set the same name in every process, in the order of what is in it."""
    return "+".join(sorted(map(str, val))) if isinstance(val, set | frozenset) else None


@pytest.fixture(autouse=True)
def turns() -> Iterator[None]:
    """A library (an encoder, mostly) that has this process scheduled otherwise would stop tests that come later."""
    before = os.sched_getscheduler(0)
    yield
    assert os.sched_getscheduler(0) == before, "this test left its thread with another scheduling policy"


@pytest.fixture
def open_place() -> Iterator[Path]:
    """A folder that other users can reach, as they cannot those that pytest makes."""
    with tempfile.TemporaryDirectory(prefix="egofs-test-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture(scope="session")
def demo_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder in which the demo has been made, once for all processes that run tests side by side."""
    from vfs.datasets import demo_tree

    if "PYTEST_XDIST_WORKER" in os.environ:
        cache = tmp_path_factory.getbasetemp().parent / "demo-cache"
        cache.mkdir(exist_ok=True)
    else:
        cache = tmp_path_factory.mktemp("demo-cache")
    demo_tree.ensure(cache / "demo")
    return cache


@pytest.fixture(scope="session")
def demo_root(demo_cache: Path) -> Path:
    """The demo's tree on local disk."""
    from vfs.datasets import demo_tree

    return demo_tree.ensure(demo_cache / "demo")


@pytest.fixture(scope="session")
def lookalikes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stores that look like those of Ego4D and Ego-Exo4D: ROOT/<bucket>/<key>. Nobody writes there."""
    from vfs.datasets.lookalike import make_ego4d, make_egoexo4d

    root = tmp_path_factory.mktemp("lookalikes")
    make_ego4d(root)
    make_egoexo4d(root)
    return root
