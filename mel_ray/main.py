"""python -m mel_ray.main [--check] [overrides]: train a policy; the same as `mel train` and `mel check`."""

import sys

from mel_ray.cli.app import run_command
from mel_ray.cli.train import check, run

if __name__ == "__main__":
    words = sys.argv[1:]
    rest = [word for word in words if word != "--check"]
    sys.exit(run_command(check if rest != words else run, rest))
