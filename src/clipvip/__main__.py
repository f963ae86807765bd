"""`python -m clipvip` is the `clipvip` command."""

from clipvip.cli import main

main()
