"""``python -m alexnet`` is ``alexnet``; with it, ``torchrun -m alexnet train`` runs on several devices."""

import sys

from alexnet.cli import main

if __name__ == "__main__":  # data workers may import this module again
    sys.exit(main())
