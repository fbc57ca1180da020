"""The one place where errors become a sentence for the user."""

import os
import sys
import traceback
from typing import Any

import typer
from typer.core import TyperGroup

from mosso.cli.options import wants_json
from mosso.cli.output import print_json

USER_ERRORS = (ValueError, OSError, FloatingPointError)
EXIT_ERROR = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells count


class Verbs(TyperGroup):
    """The group of verbs; runs one and turns what the user can act on into ``Error: <sentence>`` and exit code 2.

    ``MOSSO_DEBUG=1`` prints the traceback as well. Anything that is not the user's to repair keeps its traceback.
    """

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise  # the reader of a pipe left; handled by typer
        except KeyboardInterrupt:
            typer.echo("Interrupted.", err=True)
            raise typer.Exit(EXIT_INTERRUPTED) from None
        except Exception as error:
            if not isinstance(error, USER_ERRORS) and not _is_out_of_memory(error):
                raise
            if os.environ.get("MOSSO_DEBUG", "") not in ("", "0"):
                traceback.print_exc(file=sys.stderr)
            message = sentence(error)
            typer.echo(f"Error: {message}", err=True)
            if wants_json(ctx):
                print_json({"error": message})
            raise typer.Exit(EXIT_ERROR) from None


def sentence(error: BaseException) -> str:
    """What an exception says, on one line."""
    if _is_out_of_memory(error):
        return "The device ran out of memory: use a smaller structure, a shorter precision (--precision fp32) or another device."
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}."
    message = " ".join(str(error).split()) or type(error).__name__
    return message if message.endswith((".", "!", "?")) else message + "."


def _is_out_of_memory(error: BaseException) -> bool:
    """By name, because torch may not have been imported."""
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
