"""python -m mel_ray.data.inspect [key=value ...]: the same as `mel inspect`."""

import sys

from mel_ray.cli.mel import main

if __name__ == "__main__":
    sys.exit(main(["inspect", *sys.argv[1:]]))
