"""Run a command within limits and, where told so, as a user of its own that sees nothing but what it is given.

The command replaces this process, so everything holds from its first instruction, and its signals and exit status are
its own. What to do comes in one variable, with the command's whole environment in it: this process has none of that,
because a variable such as LD_PRELOAD would run the command's code before it is confined. It imports the standard library
only, and `confinement.py` says what it is told.
"""

import ctypes
import json
import os
import resource
import struct
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

VARIABLE = "ENGINEHOUSE_CONFINE"
SCRATCH = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108 - made private
"""Where programs write files for a while. They are one file system of bounded size, with the command's home."""

_NEW_MOUNTS, _NEW_IPC = 0x00020000, 0x08000000
_READ_ONLY, _NO_SUID, _NO_DEVICES, _NO_PROGRAMS = 1, 2, 4, 8
_BIND, _RECURSIVE, _PRIVATE = 4096, 16384, 1 << 18
_MOUNT_SETATTR, _AT_CWD, _AT_RECURSIVE = 442, -100, 0x8000
_CAPBSET_DROP, _NO_NEW_PRIVS, _SECCOMP = 24, 38, 22
_NEW_USERS = 0x10000000
_NEWER_THAN_ALL, _REFUSED, _UNKNOWN, _ALLOWED = 0x40000000, 0x00050001, 0x00050026, 0x7FFF0000
"""The first number of another set of system calls of x86; answers of a filter: EPERM, ENOSYS, and go on."""
_LOAD, _IF_EQUAL, _IF_AT_LEAST, _IF_SET, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_CAPABILITY_VERSION = 0x20080522
_MOST_FILES = 100_000
"""Files in the scratch: each takes memory that the size of its content does not count."""


class _Calls(NamedTuple):
    """Numbers of system calls on a kind of machine."""

    architecture: int
    join_session: int
    with_flags: Sequence[int]
    """clone and unshare: their first argument may ask for a user namespace, in which a process has every right."""
    refused: Sequence[int]
    """add_key, request_key, keyctl, bpf, perf_event_open, userfaultfd, io_uring_setup: most holes were in these."""
    clone3: int = 435
    """A filter does not see its flags. Programs go on with clone where the kernel does not know it."""


_CALLS = {
    "x86_64": _Calls(0xC000003E, 250, (56, 272), (248, 249, 250, 321, 298, 323, 425)),
    "aarch64": _Calls(0xC00000B7, 219, (220, 97), (217, 218, 219, 280, 241, 282, 425)),
}
_libc = ctypes.CDLL(None, use_errno=True)


def confined(
    command: Sequence[str],
    environment: Mapping[str, str],
    limits: Mapping[str, int],
    confinement: Mapping[str, Any] | None = None,
) -> tuple[list[str], dict[str, str]]:
    """Return the command and the environment that run `command` within `limits`: names of the module resource, without RLIMIT_.

    `confinement` is what `Confinement.plan` returns. None: it runs as the same user, with the same files.
    """
    plan = {
        "command": list(command),
        "environment": dict(environment),
        "limits": dict(limits),
        "confinement": confinement,
    }
    # -I -S: standard library only. It starts in milliseconds.
    return [sys.executable, "-I", "-S", __file__], {VARIABLE: json.dumps(plan)}


def main() -> None:
    """Confine this process and become the command."""
    plan = json.loads(os.environ[VARIABLE])
    command: list[str] = plan["command"]
    try:
        if plan["confinement"]:
            _enter(plan["confinement"])
        for name, limit in plan["limits"].items():
            _limit(getattr(resource, f"RLIMIT_{name}"), limit)
        os.execvpe(command[0], command, plan["environment"])  # noqa: S606 - there is no shell on purpose
    except OSError as error:
        sys.stderr.write(f"cannot start {command[0]}: {error.strerror}{_where(error)}\n")
        sys.exit(127)


def _where(error: OSError) -> str:
    return f" ({error.filename})" if isinstance(error.filename, str) and error.filename else ""


def _limit(kind: int, limit: int) -> None:
    hard = resource.getrlimit(kind)[1]
    least = limit if hard == resource.RLIM_INFINITY else min(limit, hard)  # The machine may allow even less.
    resource.setrlimit(kind, (least, least))


def _enter(confinement: Mapping[str, Any]) -> None:
    """Become the confinement's user, among its own files. The present folder stays the same by its path."""
    folder = os.getcwd()
    _call("unshare", _NEW_MOUNTS | _NEW_IPC)
    _mount(None, "/", None, _RECURSIVE | _PRIVATE)
    shown = {path: os.open(path, os.O_PATH) for path in confinement["shown"]}
    secrets = _read_all(confinement["secrets"])
    before = os.umask(0o022)
    user: int = confinement["user"]
    for path in confinement["hidden"]:
        _mount("enginehouse", path, "tmpfs", _NO_SUID | _NO_DEVICES, "size=16m,mode=0755")
    own = _make_scratch(user, confinement["home"], confinement["scratch_bytes"])
    for path, descriptor in shown.items():
        _show(path, descriptor)
    _write_all(confinement["secrets"], secrets, user)
    _seal(own)
    # Of all processes it shows those of the same user. Below Linux 5.8 this would change what everybody sees: there the
    # line before has failed.
    _mount("proc", "/proc", "proc", _NO_SUID | _NO_DEVICES | _NO_PROGRAMS, "hidepid=2")
    os.chdir(folder)
    os.umask(before)
    _become(user, confinement["groups"])


def _make_scratch(user: int, home: str, size: int) -> list[str]:
    """Mount one file system of `size` bytes over the folders for scratch files and over `home`. Return their paths."""
    whole = SCRATCH[-1]
    _mount("enginehouse", whole, "tmpfs", _NO_SUID | _NO_DEVICES, f"size={size},nr_inodes={_MOST_FILES},mode=0755")
    parts = {}
    for number, path in enumerate((*SCRATCH, home)):
        part = f"{whole}/{number}"
        os.mkdir(part)
        os.chown(part, user, user)
        os.chmod(part, 0o700 if path == home else 0o1777)
        parts[path] = os.open(part, os.O_PATH)
    for path, descriptor in parts.items():
        _show(path, descriptor)
    return list(parts)


def _show(path: str, descriptor: int) -> None:
    """Make what was opened before appear at `path`, where something else hides it by now."""
    if os.path.isdir(f"/proc/self/fd/{descriptor}"):
        os.makedirs(path, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
    _mount(f"/proc/self/fd/{descriptor}", path, None, _BIND)


def _read_all(folder: str | None) -> dict[str, bytes]:
    found = {}
    for name in os.listdir(folder) if folder else ():
        with open(os.path.join(folder or "", name), "rb") as file:
            found[name] = file.read()
    return found


def _write_all(folder: str | None, contents: Mapping[str, bytes], user: int) -> None:
    """Write the files anew in the hidden folder, for the user alone."""
    if folder is None:
        return
    os.makedirs(folder)
    for name, content in contents.items():
        with open(os.open(os.path.join(folder, name), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400), "wb") as file:
            file.write(content)
            os.fchown(file.fileno(), user, user)
    os.chown(folder, user, user)
    os.chmod(folder, 0o500)


def _seal(own: Iterable[str]) -> None:
    """Let nothing be written below / but at the paths `own`, and no program there change its user."""
    _set_attributes("/", _AT_RECURSIVE, _READ_ONLY | _NO_SUID, 0)
    for path in own:
        _set_attributes(path, 0, 0, _READ_ONLY)


def _set_attributes(path: str, flags: int, added: int, removed: int) -> None:
    attributes = (ctypes.c_uint64 * 4)(added, removed, 0, 0)
    size = ctypes.sizeof(attributes)
    _call("syscall", _MOUNT_SETATTR, _AT_CWD, os.fsencode(path), flags, ctypes.byref(attributes), size, where=path)


def _become(user: int, groups: Sequence[int]) -> None:
    """Give up every right for good, and be this user, with a group of the same number and `groups`."""
    calls = _CALLS.get(os.uname().machine)
    if calls:
        _libc.syscall(calls.join_session, 1, None)  # Root's keys would be inherited. Kernels may have no keys.
    for capability in range(_last_capability() + 1):
        _call("prctl", _CAPBSET_DROP, capability, 0, 0, 0)
    os.setgroups(groups)
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    header, none = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0), (ctypes.c_uint32 * 6)()
    _call("capset", ctypes.byref(header), ctypes.byref(none))
    _call("prctl", _NO_NEW_PRIVS, 1, 0, 0, 0)
    if calls:
        _filter(calls)


def _filter(calls: _Calls) -> None:
    """Have the kernel refuse system calls that no engine needs, in this process and all that it starts."""
    steps = [(_LOAD, 0, 0, 4), (_IF_EQUAL, 1, 0, calls.architecture), (_RETURN, 0, 0, _REFUSED)]
    steps += [(_LOAD, 0, 0, 0), (_IF_AT_LEAST, 0, 1, _NEWER_THAN_ALL), (_RETURN, 0, 0, _REFUSED)]
    steps += [(_IF_EQUAL, 0, 1, calls.clone3), (_RETURN, 0, 0, _UNKNOWN)]
    for number in calls.refused:
        steps += [(_IF_EQUAL, 0, 1, number), (_RETURN, 0, 0, _REFUSED)]
    for number in calls.with_flags:
        steps += [(_IF_EQUAL, 0, 4, number), (_LOAD, 0, 0, 16), (_IF_SET, 0, 1, _NEW_USERS)]
        steps += [(_RETURN, 0, 0, _REFUSED), (_RETURN, 0, 0, _ALLOWED)]
    steps += [(_RETURN, 0, 0, _ALLOWED)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    program = ctypes.create_string_buffer(struct.pack("HP", len(steps), ctypes.addressof(code)))
    _call("prctl", _SECCOMP, 2, program, 0, 0)


def _last_capability() -> int:
    with open("/proc/sys/kernel/cap_last_cap") as file:
        return int(file.read())


def _mount(source: str | None, path: str, kind: str | None, flags: int, options: str | None = None) -> None:
    texts = [None if text is None else os.fsencode(text) for text in (source, path, kind)]
    _call("mount", *texts, ctypes.c_ulong(flags), options.encode() if options else None, where=path)


def _call(name: str, *arguments: Any, where: str = "") -> None:
    if getattr(_libc, name)(*arguments) == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}", where)


if __name__ == "__main__":
    main()
