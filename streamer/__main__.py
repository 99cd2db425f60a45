"""`python -m streamer`: serve a corpus."""

import sys

from streamer.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
