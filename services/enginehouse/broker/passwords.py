"""Keep the passwords of the broker's users as private files, so that a restart changes none."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from enginehouse.private_files import write_private

_PREFIX, _SUFFIX = "redis-", ".secret"


def new_password() -> str:
    """Return a password that nobody can guess."""
    return secrets.token_urlsafe(32)


@dataclass(frozen=True, slots=True)
class Passwords:
    """The passwords of one deployment: a file for each user in a folder."""

    folder: Path

    def file(self, user: str) -> Path:
        """Return the private file with the password of a user, whether it exists or not."""
        return self.folder / f"{_PREFIX}{user}{_SUFFIX}"

    def forget_former(self) -> None:
        """Forget the passwords that were to be replaced."""
        for file in self.folder.glob(f"{_PREFIX}*{_SUFFIX}"):
            present, *former = file.read_text().split()
            if former:
                write_private(file, present)

    def of(self, user: str) -> str:
        """Return the password of a user. It is made at first use."""
        return self.all_of(user)[0]

    def all_of(self, user: str) -> list[str]:
        """Return the passwords of a user: its own, and while it gets another one also the one before."""
        if not self.file(user).exists():
            self.set(user, [new_password()])
        return self.file(user).read_text().split()

    def set(self, user: str, passwords: Sequence[str]) -> None:
        """Keep these passwords, the user's own first."""
        write_private(self.file(user), "\n".join(passwords))

    def forget(self, user: str) -> None:
        """Delete the passwords of a user."""
        self.file(user).unlink(missing_ok=True)
