"""A process of its own that reads a stream, and says how much it got in some seconds.

Started with a server's address; the first line of standard input is a JSON object with the
tokenizer and the plan, each further one a number of seconds.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from streamer.client import StreamClient


def main() -> None:
    """Reads all the time of a measurement, and nothing between them."""
    setting = json.loads(sys.stdin.readline())
    with StreamClient([sys.argv[1]]) as client:
        client.upload_tokenizer(setting["tokenizer"])
        stream = client.open(plan=setting["plan"], split="train", batch=64)
        for line in sys.stdin:
            seconds, num_tokens = float(line), 0
            began = time.monotonic()
            while (elapsed := time.monotonic() - began) < seconds:
                num_tokens += next(stream).tokens[:, 1:].size
            print(f"{num_tokens / elapsed:.0f} {stream.reconnects}", flush=True)
        stream.close()


if __name__ == "__main__":
    main()
