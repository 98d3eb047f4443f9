"""python -m mel_ray.evaluate model=... benchmarks=[...]: the same as `mel evaluate`."""

import sys

from mel_ray.cli.mel import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
