"""`python -m expunge`, and with several processes `torchrun -m expunge`."""

from expunge.cli import main

main()
