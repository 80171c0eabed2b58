"""Errors of starting the system on one machine."""

from enginehouse.contracts.errors import EnginehouseError


class LocalError(EnginehouseError):
    """The system cannot be started on this machine as it is."""

    code = "LOCAL"
    retryable = False

    def __init__(self, detail: str, remedy: str) -> None:
        super().__init__(f"{detail}\n{remedy}")
        self.detail = detail
        self.remedy = remedy
