"""`python -m segdistill` is the command `segdistill`."""

from segdistill.cli.main import main

main()
