"""Errors of the broker."""

from enginehouse.contracts.errors import EnginehouseError


class BrokerError(EnginehouseError):
    """The broker does not answer, or refuses what it was asked."""

    code = "BROKER"

    def __init__(self, detail: str, remedy: str) -> None:
        super().__init__(f"{detail}\n{remedy}")
        self.detail = detail
        self.remedy = remedy
