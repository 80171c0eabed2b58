"""Keep a copy of each engine's folder as it was deployed. Engines run from their copies, never from authors' folders.

The copies lie beside the bundles, in `sources/<engine id>/<hash of the content>/`.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from enginehouse.contracts.program import Artifact
from enginehouse.registry.artifacts import Show, bring
from enginehouse.registry.bundle import WORKLOADS_FILE, InvalidBundle, read_workloads
from enginehouse.registry.content import content_hash, deployed_files
from enginehouse.registry.disk import remove_tree
from enginehouse.registry.locks import only_writer, opened

_UNFINISHED = ".new-"


def snapshot_source(engine_id: str, content: str) -> str:
    """Return where the copy with this content lies, relative to the engine's bundle."""
    return f"../../sources/{engine_id}/{content}"


def source_folder(bundle: Path, source: str) -> Path:
    """Return the folder that `source` of the bundle's workloads.yaml names. It may not exist."""
    return Path(os.path.normpath(bundle / source))


@contextlib.contextmanager
def only_deployer(engines: Path) -> Iterator[None]:
    """Be the only one who changes the bundles and copies beside `engines`. Wait until others are done."""
    with only_writer(_sources(engines)):
        yield


@contextlib.contextmanager
def fetched(
    engines: Path, engine_id: str, artifacts: Sequence[Artifact], show: Show = lambda _: None
) -> Iterator[dict[str, Path]]:
    """Bring the artifacts here for the length of the block, and return where each lies, by its path in the engine's folder.

    One that another copy of the engine has is not fetched again. The caller need not be `only_deployer`, since this may
    take long. `show` is told what is fetched. Raise InvalidBundle if one cannot be brought.
    """
    if not artifacts:
        yield {}
        return
    copies = _sources(engines) / engine_id
    with contextlib.ExitStack() as held:
        with only_deployer(engines):  # Nobody deletes the draft before it is held.
            copies.mkdir(exist_ok=True)
            fresh = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=copies))
            held.callback(_forget_draft, engines, fresh)
            held.enter_context(hold(fresh))
        bring(artifacts, fresh, [copy for copy in copies.iterdir() if not copy.name.startswith(".")], show)
        yield {artifact.file: fresh / artifact.file for artifact in artifacts}


def _forget_draft(engines: Path, draft: Path) -> None:
    shutil.rmtree(draft, ignore_errors=True)
    with contextlib.suppress(OSError), only_deployer(engines):
        draft.parent.rmdir()  # Succeeds if it is empty.


def take_snapshot(engines: Path, engine_id: str, folder: Path, brought: Mapping[str, Path] | None = None) -> str:
    """Copy the deployed files of `folder`, and move the `brought` ones there. Return the hash of the copy's content.

    The caller is `only_deployer`. Raise InvalidBundle if a file cannot be deployed.
    """
    copies = _sources(engines) / engine_id
    copies.mkdir(exist_ok=True)
    # A copy gets its name only when it is complete, so that a crash leaves no half copy under a name that is used.
    fresh = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=copies))
    try:
        for name, path in deployed_files(folder).items():
            (fresh / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, fresh / name)
        for name, path in (brought or {}).items():
            (fresh / name).parent.mkdir(parents=True, exist_ok=True)
            path.replace(fresh / name)
        # Hashed from the copy, because the author may edit the folder meanwhile.
        content = content_hash(fresh)
        if (copies / content).exists() and content_hash(copies / content) != content:
            _remove_unless_held(copies / content)  # Its engine has changed it since.
        if not (copies / content).exists():
            fresh.chmod(folder.stat().st_mode | 0o700)
            fresh.rename(copies / content)
    except OSError as error:
        raise InvalidBundle(f"{error.filename or folder} cannot be copied: {error.strerror}") from None
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return content


@contextlib.contextmanager
def hold(source: Path) -> Iterator[None]:
    """Keep the copy from being removed during the block, and however long the new version takes to come up.

    Raise OSError if it is gone. The kernel lets go when the process dies.
    """
    with opened(source) as descriptor:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        if not os.path.samestat(os.fstat(descriptor), source.stat()):
            raise FileNotFoundError(f"{source} has just been replaced")
        yield


def is_held(source: Path) -> bool:
    """Say whether anybody runs an engine from this copy."""
    try:
        with opened(source) as descriptor:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False


def remove_unused(engines: Path, engine_id: str) -> None:
    """Delete the engine's copies that no version in its bundle names and nobody holds. The caller is `only_deployer`."""
    try:
        kept = _named_copies(engines / engine_id)
    except InvalidBundle:
        return  # Somebody edits the bundle: which copies it will name cannot be known.
    with contextlib.suppress(OSError):  # Tried again after the next deployment.
        _remove_all_but(kept, _sources(engines) / engine_id)


def engines_with_copies(engines: Path) -> list[str]:
    """Return the ids of the engines that have copies, also of those without a bundle."""
    return sorted(path.name for path in _sources(engines).iterdir() if path.is_dir())


def remove_copies(engines: Path, engine_id: str) -> None:
    """Delete all copies of the engine that nobody holds, also those that its bundle names. Raise OSError.

    The caller is `only_deployer`.
    """
    _remove_all_but(set(), _sources(engines) / engine_id)


def _remove_all_but(kept: set[Path], copies: Path) -> None:
    """Delete copies, as many as possible. Raise OSError if one cannot be deleted."""
    failure = None
    for copy in sorted(copies.iterdir()) if copies.is_dir() else ():
        if copy not in kept:
            try:
                _remove_unless_held(copy)
            except OSError as error:
                failure = error
    if failure:
        raise failure
    with contextlib.suppress(OSError):
        copies.rmdir()  # Succeeds if it is empty.


def tidy_snapshots(engines: Path, engine_id: str) -> None:
    """Delete the engine's unused copies when its processes have ended, as far as possible. Wait for deployments."""
    with contextlib.suppress(OSError), only_deployer(engines):
        remove_unused(engines, engine_id)


def _named_copies(bundle: Path) -> set[Path]:
    if not bundle.is_dir():
        return set()
    slots = read_workloads(bundle / WORKLOADS_FILE).slots
    return {source_folder(bundle, workload.source) for workload in slots.values()}


def _remove_unless_held(copy: Path) -> None:
    """Delete a copy. Raise OSError if that fails."""
    with contextlib.suppress(BlockingIOError, FileNotFoundError), opened(copy) as descriptor:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Renamed first, so that a crash leaves no half copy under its name.
        unnamed = copy if copy.name.startswith(_UNFINISHED) else copy.rename(copy.with_name(_UNFINISHED + copy.name))
        remove_tree(unnamed)


def _sources(engines: Path) -> Path:
    """Return the folder of all copies, made if missing.

    It lies beside the bundles, because those are watched and replaced whole, while an engine writes into its copy and
    must find its files under the same path until it has ended. It is its owner's alone, for what engines write.
    """
    folder = engines.parent / "sources"
    folder.mkdir(parents=True, exist_ok=True)
    if folder.stat().st_mode & 0o077:
        folder.chmod(0o700)
    return folder
