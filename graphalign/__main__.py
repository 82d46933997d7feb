"""`python -m graphalign`, as torchrun starts it."""

from graphalign.cli import main

main()
