"""python -m mel_ray.main [--check] [key=value ...]: the same as `mel train` and `mel check`."""

import sys

from mel_ray.cli.mel import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
