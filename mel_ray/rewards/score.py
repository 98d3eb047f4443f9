"""python -m mel_ray.rewards.score --input ... --output ...: the same as `mel score`."""

import sys

from mel_ray.cli.mel import main

if __name__ == "__main__":
    sys.exit(main(["score", *sys.argv[1:]]))
