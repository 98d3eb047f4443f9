"""python -m mel_ray.report RUN [RUN ...]: the same as `mel report`."""

import sys

from mel_ray.cli.mel import main

if __name__ == "__main__":
    sys.exit(main(["report", *sys.argv[1:]]))
