"""``python -m mosso.cli``."""

from mosso.cli import main

main()
