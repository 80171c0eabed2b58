"""A gateway with wrong settings does not start, and names each environment variable that is missing or wrong."""

import pytest

from enginehouse.gateway import serve as gateway

GOOD = {
    "ENGINEHOUSE_GATEWAY_LEDGER_URL": "sqlite:////nowhere/ledger",
    "ENGINEHOUSE_GATEWAY_TENANTS_DIR": "/nowhere",
    "DAPR_API_TOKEN": "a-secret-of-16-characters",
    "APP_API_TOKEN": "another-secret-of-16",
    "ENGINEHOUSE_GATEWAY_PROOF_KEY": "a-secret-of-at-least-32-characters",
}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in GOOD.items():
        monkeypatch.setenv(name, value)


def test_every_wrong_setting_is_named_by_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ENGINEHOUSE_GATEWAY_LEDGER_URL")
    monkeypatch.setenv("ENGINEHOUSE_GATEWAY_PORT", "http")
    monkeypatch.setenv("ENGINEHOUSE_GATEWAY_LOG_LEVEL", "loud")
    monkeypatch.setenv("DAPR_API_TOKEN", "short")
    monkeypatch.setenv("ENGINEHOUSE_GATEWAY_PROOF_KEY", "short")
    with pytest.raises(SystemExit) as caught:
        gateway.main()
    said = str(caught.value)
    for expected in (
        "ENGINEHOUSE_GATEWAY_LEDGER_URL: it must be set",
        "ENGINEHOUSE_GATEWAY_PORT: ",
        "ENGINEHOUSE_GATEWAY_LOG_LEVEL: ",
        "DAPR_API_TOKEN: it must have at least 16 characters",
        "ENGINEHOUSE_GATEWAY_PROOF_KEY: it must have at least 32 characters",
    ):
        assert expected in said
    assert "short" not in said
