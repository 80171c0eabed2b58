"""daprd is found, is checked against the published hash, and is started with every flag that it needs."""

import hashlib
import io
import itertools
import tarfile
from pathlib import Path

import pytest

from enginehouse.local import acquire, daprd
from enginehouse.local.errors import LocalError
from enginehouse.local.guard import Guard
from enginehouse.local.sidecar import SidecarPlan, SidecarPorts, Tokens, sidecar_environment
from enginehouse.local.steps import SilentSteps

_PORTS = SidecarPorts(20001, 20002, 20003, 20004, 20005)


def _fake(path: Path, version: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho {version}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a machine without daprd and go."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return tmp_path


def test_the_one_on_path_comes_first_then_dapr_init_then_our_cache(bare: Path) -> None:
    assert daprd.find() is None
    ours = _fake(daprd.cached_path(daprd.BUILT), "1.18.2")
    assert daprd.find() == ours
    theirs = _fake(bare / "home" / ".dapr" / "bin" / "daprd", "1.18.1")
    assert daprd.find() == theirs
    assert daprd.find() != _fake(bare / "bin" / "daprd", "1.17.0"), "another series is passed over"
    on_path = _fake(bare / "bin" / "daprd", "1.18.0")
    assert daprd.find() == on_path


def test_one_that_has_much_to_compare_does_it_less_often_if_it_can_be_told(bare: Path) -> None:
    told = _fake(bare / "told" / "daprd", "1.18.2")
    assert daprd.compared_every(told, 400) is None, "each minute, as always"
    assert daprd.compared_every(told, 1_000) == 350
    assert daprd.compared_every(told, 10_000) == 600, "what could not be loaded is tried again"
    assert daprd.compared_every(_fake(bare / "later" / "daprd", "1.18.10"), 1_000) == 350
    assert daprd.compared_every(_fake(bare / "older" / "daprd", "1.18.1"), 1_000) is None


def _archive(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as files:
        entry = tarfile.TarInfo("daprd")
        entry.size = len(content)
        files.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def test_a_release_is_installed_only_if_it_is_what_was_published(bare: Path) -> None:
    archive = _archive(b"#!/bin/sh\necho 1.18.3\n")
    with pytest.raises(LocalError, match="does not have the SHA-256"):
        acquire.install_archive(archive, "0" * 64, "1.18.3")
    assert daprd.find() is None
    installed = acquire.install_archive(archive, hashlib.sha256(archive).hexdigest().upper(), "1.18.3")
    assert daprd.find() == installed
    assert [path.name for path in installed.parent.iterdir()] == ["daprd"]


async def test_where_no_way_works_the_error_names_each_and_the_ways_out(
    bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acquire, "RELEASES", "http://127.0.0.1:9/none")
    with pytest.raises(LocalError) as failed:
        await acquire.get_daprd(Guard(), SilentSteps())
    said = str(failed.value)
    for expected in ("cannot be downloaded", "no go on PATH", "dapr init", "Go 1.26.5", "PATH or into ~/.dapr/bin"):
        assert expected in said


async def test_it_is_built_inside_its_module_and_the_progress_counts_packages(
    bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acquire, "RELEASES", "http://127.0.0.1:9/none")
    module = bare / "module"
    names = module / "cmd/daprd/components/nameresolution_sqlite.go"
    names.parent.mkdir(parents=True)
    names.write_text("//go:build allcomponents\n\npackage components\n")
    names.chmod(0o444)
    go = bare / "bin" / "go"
    go.parent.mkdir()
    # Replaces the Go command: answers the three calls, and builds a "daprd" at the path after -o.
    go.write_text(
        "#!/bin/sh\n"
        f"""case "$1 $2" in
'mod download') echo '{{"Dir": "{module}"}}' ;;
'list -deps') printf 'a\\nb\\nc\\nd\\n' ;;
'build -v')
    [ "$PWD" != "{module}" ] || exit 9
    read first < cmd/daprd/components/nameresolution_sqlite.go
    [ -z "$first" ] || exit 8
    while [ "$1" != -o ]; do shift; done
    printf 'a\\nb\\n' >&2
    printf '#!/bin/sh\\necho 1.18.2\\n' > "$2"
    /bin/chmod 755 "$2" ;;
esac
"""
    )
    go.chmod(0o755)
    seen: list[tuple[int, int]] = []

    class Seen(SilentSteps):
        def update(self, key: str, text: str, done: int = 0, total: int = 0) -> None:
            if total:
                seen.append((done, total))

    guard = Guard()
    binary = await acquire.get_daprd(guard, Seen())
    guard.close()
    assert binary == daprd.cached_path(daprd.BUILT)
    assert daprd.find() == binary
    assert seen == [(1, 4), (2, 4)]


def _command() -> list[str]:
    plan = SidecarPlan(
        "acme--one--a",
        _PORTS,
        [Path("/bundle/engine"), Path("/dapr")],
        Path("/c.yaml"),
        20006,
        block_shutdown_seconds=90,
    )
    return plan.command(Path("/bin/daprd"))


def _value(command: list[str], flag: str) -> str:
    return command[command.index(flag) + 1]


def test_it_listens_on_loopback_only_with_every_port_given() -> None:
    command = _command()
    for flag in ("--dapr-listen-addresses", "--dapr-internal-grpc-listen-address", "--metrics-listen-address"):
        assert _value(command, flag) == "127.0.0.1"
    flags = ["--dapr-http-port", "--dapr-grpc-port", "--dapr-internal-grpc-port", "--metrics-port", "--profile-port"]
    assert [_value(command, flag) for flag in flags] == [str(port) for port in _PORTS.all()]


def test_the_official_tools_can_read_its_command_line() -> None:
    command = _command()
    assert Path(command[0]).name == "daprd"
    assert command[-2] != "--app-id"
    assert not [argument for argument in command if argument.startswith("-") and not argument.startswith("--")]


def test_running_jobs_may_end_and_apps_cannot_subscribe_themselves() -> None:
    command = _command()
    assert _value(command, "--dapr-block-shutdown-duration") == "90s"
    assert _value(command, "--disable-init-endpoints") == "subscribe,config"
    assert "--enable-app-health-check" in command
    assert int(_value(command, "--app-health-probe-timeout")) < 1000 * int(
        _value(command, "--app-health-probe-interval")
    )
    resources = [value for flag, value in itertools.pairwise(command) if flag == "--resources-path"]
    assert resources == ["/bundle/engine", "/dapr"]


def test_secrets_travel_in_the_environment_only() -> None:
    environment = sidecar_environment(
        Tokens("api-secret", "app-secret"), {"ENGINEHOUSE_REDIS_PASSWORD": "redis-secret"}
    )
    assert not [argument for argument in _command() if "secret" in argument]
    assert environment["DAPR_API_TOKEN"] == "api-secret"
    assert environment["APP_API_TOKEN"] == "app-secret"
