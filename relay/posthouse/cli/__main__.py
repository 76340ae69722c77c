"""`python -m posthouse.cli`: the same as `posthouse`."""

from posthouse.cli import main

main()
