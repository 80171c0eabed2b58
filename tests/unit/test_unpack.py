"""An uploaded folder is unpacked within its bounds, or refused with the reason; nothing is written outside of it."""

import gzip
import io
import stat
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.break_ins import attempt

from enginehouse.registry import disk
from enginehouse.registry.content import deployed_files, files_hash
from enginehouse.registry.unpack import InvalidUpload, pack, unpack

_YAML = b"tenant: demo\nname: one\n"


def _zip(path: Path, *entries: tuple[str | zipfile.ZipInfo, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name, content in entries:
            zipped.writestr(name, content)
    return path


def _tar(path: Path, *entries: tuple[str | tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in entries:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


_EACH = pytest.mark.parametrize("make", [_zip, _tar], ids=["zip", "tar.gz"])
Make = Callable[..., Path]


def _refusal(archive: Path, **bounds: int) -> str:
    with pytest.raises(InvalidUpload) as refused:
        unpack(archive, archive.parent / "out", **bounds)
    assert {path.name for path in archive.parent.iterdir()} <= {archive.name, "out"}, "nothing is written elsewhere"
    return str(refused.value)


@_EACH
@pytest.mark.parametrize("top", ["", "sentiment/", "./"])
def test_a_folder_comes_out_as_it_went_in(tmp_path: Path, make: Make, top: str) -> None:
    found = unpack(
        make(tmp_path / "a", (f"{top}engine.yaml", _YAML), (f"{top}models/m.bin", b"\0" * 10)), tmp_path / "out"
    )
    assert {name: path.read_bytes() for name, path in deployed_files(found).items()} == {
        "engine.yaml": _YAML,
        "models/m.bin": b"\0" * 10,
    }


def test_what_is_packed_here_has_the_same_hash_unpacked_there(tmp_path: Path) -> None:
    folder = tmp_path / "engine"
    (folder / "bin").mkdir(parents=True)
    (folder / "engine.yaml").write_bytes(_YAML)
    (folder / "bin" / "serve").write_text("#!/bin/sh\n")
    (folder / "bin" / "serve").chmod(0o755)
    pack(deployed_files(folder), tmp_path / "a")
    assert files_hash(deployed_files(unpack(tmp_path / "a", tmp_path / "out"))) == files_hash(deployed_files(folder))


@attempt("names files outside of its folder in an archive", layer="unpacking: plain files below one folder")
@_EACH
@pytest.mark.parametrize("name", ["/etc/evil", "../evil", "a/../../evil", "..", "a\\evil", "a\nb", "x" * 1_001])
def test_a_path_that_leaves_the_folder_is_refused(tmp_path: Path, make: Make, name: str) -> None:
    assert "is not a path inside of the folder" in _refusal(make(tmp_path / "a", ("engine.yaml", _YAML), (name, b"x")))


@attempt("puts links and devices into a tar", layer="unpacking: plain files below one folder")
@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_in_a_tar_are_refused(tmp_path: Path, kind: bytes) -> None:
    link = tarfile.TarInfo("link")
    link.type, link.linkname = kind, "/etc/passwd"
    assert "'link' is a link or a device" in _refusal(_tar(tmp_path / "a", (link, b"")))


@attempt("puts a symbolic link into a zip", layer="unpacking: plain files below one folder")
def test_a_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    assert "'link' is a link or a device" in _refusal(_zip(tmp_path / "a", (link, b"/etc/passwd")))


@attempt("packs countless files into an archive", layer="counted while it comes out")
@_EACH
def test_what_comes_out_is_counted_not_what_the_archive_says(tmp_path: Path, make: Make) -> None:
    many = [(f"f{number}", b"") for number in range(11)]
    assert "more than 10 files" in _refusal(make(tmp_path / "a", *many), max_files=10)


@attempt("announces countless files in the index of a zip", layer="counted before anything is written")
def test_a_zip_of_too_many_files_is_refused_before_any_is_written(tmp_path: Path) -> None:
    many = [(f"f{number}", b"") for number in range(11)]
    assert "more than 10 files" in _refusal(_zip(tmp_path / "a", *many), max_files=10)
    assert list((tmp_path / "out").iterdir()) == []


@attempt("packs an archive that fills the disk", layer="counted while it comes out")
@_EACH
def test_a_bomb_is_refused_before_it_fills_the_disk(tmp_path: Path, make: Make) -> None:
    bomb = make(tmp_path / "a", ("engine.yaml", _YAML), ("zeros", b"\0" * 30_000_000))
    assert bomb.stat().st_size < 200_000
    assert "more than the 1,000,000 bytes" in _refusal(bomb, max_bytes=1_000_000)
    assert sum(path.stat().st_size for path in (tmp_path / "out").rglob("*")) <= 1_100_000


@attempt("puts a file twice into an archive, one to be checked and one to be used", layer="unpacking: each name once")
@_EACH
def test_a_file_that_is_there_twice_is_refused(tmp_path: Path, make: Make) -> None:
    with warnings.catch_warnings(action="ignore"):
        archive = make(tmp_path / "a", ("engine.yaml", _YAML), ("engine.yaml", b"other"))
    assert "holds 'engine.yaml' twice" in _refusal(archive)


@attempt("names files as no disk can", layer="unpacking: names are checked")
@_EACH
def test_a_name_that_no_disk_takes_is_refused(tmp_path: Path, make: Make) -> None:
    assert "is too long" in _refusal(make(tmp_path / "a", ("engine.yaml", _YAML), ("n" * 300, b"")))


def test_a_zip_whose_content_is_damaged_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a", "w", zipfile.ZIP_LZMA) as zipped:
        zipped.writestr("engine.yaml", _YAML * 100)
    content = bytearray((tmp_path / "a").read_bytes())
    content[55:75] = bytes(20)
    (tmp_path / "a").write_bytes(content)
    assert "cannot be unpacked" in _refusal(tmp_path / "a")


@_EACH
def test_room_is_left_on_the_disk(tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "LEAST_FREE_BYTES", 2**60)
    with pytest.raises(disk.DiskFull, match="are left on the disk of"):
        unpack(make(tmp_path / "a", ("engine.yaml", _YAML)), tmp_path / "out")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "neither a zip nor a tar.gz"),
        (b"hello", "neither a zip nor a tar.gz"),
        (b"PK\x03\x04broken", "cannot be unpacked"),
        (b"\x1f\x8bbroken", "cannot be unpacked"),
        (gzip.compress(b"not a tar, but long enough to be looked at" * 100, mtime=0), "cannot be unpacked"),
    ],
)
def test_what_is_no_archive_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "a").write_bytes(content)
    assert said in _refusal(tmp_path / "a")


@_EACH
def test_half_an_archive_is_refused(tmp_path: Path, make: Make) -> None:
    whole = make(tmp_path / "a", ("engine.yaml", _YAML), ("noise", bytes(range(256)) * 400))
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    assert "cannot be unpacked" in _refusal(whole)


@_EACH
def test_a_folder_without_engine_yaml_is_refused(tmp_path: Path, make: Make) -> None:
    assert "There is no engine.yaml at the top" in _refusal(make(tmp_path / "a", ("a/engine.yaml", b""), ("b/x", b"")))
