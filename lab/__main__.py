"""``python -m lab`` is the command ``lab``."""

from lab.cli import main

main(prog_name="lab")
