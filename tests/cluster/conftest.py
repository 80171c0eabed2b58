"""The core of Enginehouse in the cluster that KUBECONFIG names, installed anew once for all these tests.

They change the cluster: namespaces `enginehouse`, `enginehouse-tests` and `tenant-*` are deleted at the start. Nothing is
deleted at the end, so that what failed can be looked at.
"""

import os
from collections.abc import Iterator

import pytest
from tests.support.cluster import core as cluster_core
from tests.support.cluster.caller import start_caller
from tests.support.cluster.core import Core
from tests.support.cluster.images import services_image
from tests.support.cluster.kube import kubeconfig
from tests.support.cluster.operator import Operator

LONGEST_SECONDS = 600


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give each of these tests the time that a cluster takes, and skip them without one."""
    for item in items:
        if item.path.is_relative_to(__file__.rpartition("/")[0]):
            item.add_marker(pytest.mark.timeout(LONGEST_SECONDS))
            # Asked for by name, so that no other run of tests deletes what a developer's KUBECONFIG leads to.
            if not os.environ.get("CLUSTER_TEST") or kubeconfig() is None:
                item.add_marker(pytest.mark.skip("changes a cluster: KUBECONFIG=FILE make cluster-test"))


@pytest.fixture(scope="session")
def core() -> Iterator[Core]:
    installed = cluster_core.install()
    start_caller(services_image())
    yield installed
    installed.close()


@pytest.fixture(scope="session")
def operator(core: Core, tmp_path_factory: pytest.TempPathFactory) -> Operator:
    return Operator(core, tmp_path_factory.mktemp("operator"))
