"""Settings from the environment, and settings with which a runner refuses to start."""

from pathlib import Path

import pytest

from enginehouse.contracts.errors import UnsafeSettings
from enginehouse.runner.serve import main
from enginehouse.runner.settings import load_settings, load_spec

GOOD = {
    "ENGINEHOUSE_RUNNER_SPEC": "/nowhere/engine.yaml",
    "ENGINEHOUSE_RUNNER_SLOT": "a",
    "ENGINEHOUSE_RUNNER_WORKER": "acme--echo-a-1",
    "ENGINEHOUSE_RUNNER_ENGINE_URLS": '["http://127.0.0.1:9001"]',
    "ENGINEHOUSE_RUNNER_DELIVERY_PORT": "9002",
    "DAPR_HTTP_PORT": "9003",
    "DAPR_API_TOKEN": "a-secret-of-16-characters",
    "APP_API_TOKEN": "another-secret-of-16",
    "ENGINEHOUSE_RUNNER_PROOF_KEY": "a-secret-of-at-least-32-characters",
}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in GOOD.items():
        monkeypatch.setenv(name, value)


def test_good_settings() -> None:
    settings = load_settings()
    assert settings.engine_urls == ["http://127.0.0.1:9001"]
    assert settings.spec == Path("/nowhere/engine.yaml")
    assert settings.dapr_api_token.get_secret_value() == GOOD["DAPR_API_TOKEN"]
    assert GOOD["DAPR_API_TOKEN"] not in repr(settings)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("DAPR_API_TOKEN", None, "DAPR_API_TOKEN"),
        ("APP_API_TOKEN", "", "at least 16"),
        ("APP_API_TOKEN", "short", "at least 16"),
        ("ENGINEHOUSE_RUNNER_PROOF_KEY", "sixteen-or-more-but-not-32", "at least 32"),
        ("ENGINEHOUSE_RUNNER_DELIVERY_HOST", "0.0.0.0", "loopback"),
        ("ENGINEHOUSE_RUNNER_DELIVERY_HOST", "engine.example", "ENGINEHOUSE_RUNNER_DELIVERY_HOST"),
        ("ENGINEHOUSE_RUNNER_SLOT", "c", "ENGINEHOUSE_RUNNER_SLOT"),
        ("ENGINEHOUSE_RUNNER_WORKER", "a/b", "ENGINEHOUSE_RUNNER_WORKER"),
        ("ENGINEHOUSE_RUNNER_ENGINE_URLS", "[]", "ENGINEHOUSE_RUNNER_ENGINE_URLS"),
        ("ENGINEHOUSE_RUNNER_ENGINE_URLS", None, "either this or ENGINEHOUSE_RUNNER_ENGINE_URLS must be set"),
        ("ENGINEHOUSE_RUNNER_ENGINE_SERVICE", "engine:8000", "ENGINE_SERVICE: either .* must be set, and not both"),
        ("ENGINEHOUSE_RUNNER_ENGINE_SERVICE", "http://engine:8000", "ENGINEHOUSE_RUNNER_ENGINE_SERVICE"),
        ("ENGINEHOUSE_RUNNER_JOBS_COMPONENT", "a/b", "ENGINEHOUSE_RUNNER_JOBS_COMPONENT"),
        ("ENGINEHOUSE_RUNNER_ENGINE_URLS", "http://127.0.0.1:1", "ENGINEHOUSE_RUNNER_ENGINE_URLS"),
        ("ENGINEHOUSE_RUNNER_ENGINE_URLS", '["http://u:p@127.0.0.1:1"]', "http://host:port"),
        ("ENGINEHOUSE_RUNNER_ENGINE_URLS", '["http://127.0.0.1:1/x"]', "http://host:port"),
        ("ENGINEHOUSE_RUNNER_ENGINE_URLS", '["https://127.0.0.1:1"]', "http://host:port"),
        ("ENGINEHOUSE_RUNNER_ENGINE_URLS", '["http://h:1", "http://h:1"]', "twice"),
    ],
)
def test_what_does_not_start(monkeypatch: pytest.MonkeyPatch, name: str, value: str | None, said: str) -> None:
    if value is None:
        monkeypatch.delenv(name)
    else:
        monkeypatch.setenv(name, value)
    with pytest.raises(UnsafeSettings, match=said):
        load_settings()


def test_replicas_behind_a_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ENGINEHOUSE_RUNNER_ENGINE_URLS")
    monkeypatch.setenv("ENGINEHOUSE_RUNNER_ENGINE_SERVICE", "acme--echo--a:8000")
    assert load_settings().engine_service == "acme--echo--a:8000"
    for wrong in ("acme--echo--a:80000", "acme--echo--a:0", "acme--echo--a"):
        monkeypatch.setenv("ENGINEHOUSE_RUNNER_ENGINE_SERVICE", wrong)
        with pytest.raises(UnsafeSettings, match="ENGINEHOUSE_RUNNER_ENGINE_SERVICE"):
            load_settings()


def test_no_secret_in_the_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APP_API_TOKEN", "hunter2")
    with pytest.raises(UnsafeSettings) as caught:
        load_settings()
    assert "hunter2" not in str(caught.value)


def test_main_says_what_is_wrong_and_ends_with_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("APP_API_TOKEN")
    assert main() == 2
    assert "APP_API_TOKEN" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "tenant: [", "tenant: acme", "tenant: kube-x\nname: echo"])
def test_a_spec_that_is_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "engine.yaml"
    path.write_text(text)
    with pytest.raises(UnsafeSettings, match=r"engine\.yaml"):
        load_spec(path)


def test_a_spec(tmp_path: Path) -> None:
    path = tmp_path / "engine.yaml"
    path.write_text("tenant: acme\nname: echo\n")
    assert load_spec(path).id == "acme--echo"
