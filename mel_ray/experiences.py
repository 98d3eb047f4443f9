"""python -m mel_ray.experiences RUN: the same as `mel experiences`."""

import sys

from mel_ray.cli.mel import main

if __name__ == "__main__":
    sys.exit(main(["experiences", *sys.argv[1:]]))
