"""The fixtures for a real Redis and real sidecars keep the promises that other tests rely on."""

from pathlib import Path
from urllib.request import Request, urlopen

import pytest
from tests.support.dapr import DiedEarly, start_daprd, start_redis

_STORE = """
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: results-acme--one}
spec:
  type: state.redis
  version: v1
  metadata:
    - {name: redisHost, envRef: ENGINEHOUSE_REDIS_HOST}
    - {name: redisPassword, envRef: ENGINEHOUSE_REDIS_PASSWORD}
    - {name: keyPrefix, value: acme--one}
"""


def test_a_sidecar_reads_and_writes_redis_through_env_refs(tmp_path: Path) -> None:
    redis = start_redis(tmp_path)
    folder = tmp_path / "components"
    folder.mkdir()
    (folder / "store.yaml").write_text(_STORE)
    daprd = start_daprd("acme--one--a", [folder], tmp_path / "daprd.log", env=redis.environment())
    try:
        url = f"{daprd.url}/state/results-acme--one"
        headers = {"dapr-api-token": daprd.api_token, "content-type": "application/json"}
        with urlopen(Request(url, b'[{"key": "k", "value": 1}]', headers)) as answer:
            assert answer.status == 204
        with urlopen(Request(f"{url}/k", headers=headers)) as answer:
            assert answer.read() == b"1"
    finally:
        daprd.stop()
        redis.stop()


def test_a_sidecar_that_cannot_start_fails_at_once_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "broken.yaml").write_text(_STORE.replace("state.redis", "state.nonsense"))
    with pytest.raises(DiedEarly, match=r"state\.nonsense"):
        start_daprd("acme--one--a", [tmp_path], tmp_path / "daprd.log")
