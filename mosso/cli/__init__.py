"""The command line: one small file per verb. Torch is imported inside the verbs, so that help stays instant."""


def main() -> None:
    """Entry point of the ``mosso`` command."""
    from mosso.cli.app import app

    app(prog_name="mosso")
