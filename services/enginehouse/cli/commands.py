"""The groups of commands: errors of every command end here in one form, and a group without a command lists."""

import sys
from collections.abc import Sequence
from typing import Any

from typer.core import TyperGroup
from typer.exceptions import TyperException

from enginehouse.cli.console import out, prepare_streams
from enginehouse.cli.failures import WrongUse, print_error, status_of
from enginehouse.cli.help import WIDEST, HelpFormatter
from enginehouse.contracts.errors import EnginehouseError

_SENTENCE = 200
"""Longest first sentence of a help text."""

TyperGroup.context_class.formatter_class = HelpFormatter


class Commands(TyperGroup):
    """The whole command. Without arguments it shows its help."""

    def main(self, args: Sequence[str] | None = None, *rest: Any, **options: Any) -> Any:
        """Run, tell of an error, and exit with the status that belongs to it."""
        prepare_streams()
        given = list(sys.argv[1:] if args is None else args)
        options |= {"standalone_mode": False, "terminal_width": min(out.width, WIDEST)}
        try:
            sys.exit(super().main(given, *rest, **options) or 0)
        except TyperException as wrong:
            error: EnginehouseError = WrongUse(wrong.format_message(), _command_of(wrong))
        except EnginehouseError as failed:
            error = failed
        print_error(error, as_json="--json" in given)
        sys.exit(status_of(error))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the arguments. Without any, show the help."""
        return super().parse_args(ctx, args or ["--help"])

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the commands with the whole first sentence of each."""
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, command.get_short_help_str(_SENTENCE)) for name, command in self.commands.items()]
            )


class Lists(Commands):
    """A group in which `enginehouse GROUP` means `enginehouse GROUP list`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the arguments. Without a command, they are those of `list`."""
        is_list = not args or (args[0].startswith("-") and args[0] != "--help")
        return super().parse_args(ctx, ["list", *args] if is_list else args)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the options, the commands, and the options of `list`."""
        super().format_options(ctx, formatter)
        records = [parameter.get_help_record(ctx) for parameter in self.commands["list"].params]
        with formatter.section("Options of 'list'"):
            formatter.write_dl([record for record in records if record])


def _command_of(wrong: TyperException) -> str:
    context = getattr(wrong, "ctx", None)
    return context.command_path if context else "enginehouse"
