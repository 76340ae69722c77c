"""`python -m posthouse`: the same as `posthouse`."""

from posthouse.cli import main

main()
