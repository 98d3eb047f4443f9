"""The command `mel`: finds the subcommand, and runs it in the one wrapper that all of them share."""

import difflib
import importlib
import os
import sys
from collections.abc import Sequence

from mel_ray.cli.app import BAD_REQUEST, EXIT_CODES, Command, Ended, Options, asks_for_help, run_command

# name: (module, its function, what it does). A module is imported when its command is chosen, so that help is instant.
COMMANDS = {
    "train": ("mel_ray.cli.train", "train", "train a policy, or continue a run"),
    "check": ("mel_ray.cli.check", "check", "show the plan and the prompts of a run, or every problem at once"),
    "keys": ("mel_ray.cli.mel", "keys", "explain the configuration's keys, or those about a word"),
    "evaluate": ("mel_ray.cli.evaluate", "evaluate", "measure Pass@1, Avg@n and Pass@k of any checkpoint"),
    "pass-rate": ("mel_ray.cli.pass_rate", "pass_rate", "measure how often a model solves each training question"),
    "export": ("mel_ray.cli.export", "export", "write the policy of a checkpoint as a Hugging Face folder"),
    "report": ("mel_ray.cli.report", "report", "draw one or more runs on a page"),
    "experiences": ("mel_ray.cli.experiences", "experiences", "print the meta-experiences of a run"),
    "inspect": ("mel_ray.cli.inspect", "inspect", "show what a dataset holds: lengths, answers, contamination"),
    "score": ("mel_ray.cli.score", "score", "judge a file of responses outside any run"),
}

HELP = f"""\
mel trains language models to reason by reinforcement learning with verifiable rewards, and lets them learn
from meta-experiences: lessons that they write about their own mistakes (MEL, arXiv 2602.10224).

usage: mel <command> [arguments]

commands (mel <command> --help says more):
{{commands}}

examples:
  mel train                                   a small embedded model on embedded problems, on any machine
  mel check model=qwen3_8b_base cluster=2x8   what a larger run would need, before it costs anything
  mel train run.name=mine run.resume=auto run.steps=200         continue the run in runs/mine

keys: train, check, evaluate, pass-rate and inspect take key=value. `mel keys` prints every key with its type,
default and meaning, `mel keys clip` those about clipping. Values such as model=qwen3_8b_base or
algorithm=dapo choose a file of conf/, which sets several keys at once. A run keeps all of its keys in
runs/<name>/config.yaml.

{EXIT_CODES}"""


def help_text() -> str:
    return HELP.format(commands="\n".join(f"  {name:<13}{does}" for name, (_, _, does) in COMMANDS.items()))


def find_command(name: str) -> Command:
    """
    Raises:
        Ended: there is no such command.
    """
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        guess = f"train {name}" if "=" in name else close[0] if close else ""
        remedy = f"Did you mean `mel {guess}`?" if guess else "`mel --help` lists the commands."
        raise Ended(BAD_REQUEST, f"mel: there is no command '{name}'. {remedy}")
    module, function, _ = COMMANDS[name]
    return getattr(importlib.import_module(module), function)


def keys(arguments: Sequence[str]) -> None:
    """`mel keys [word]`"""
    parser = Options("keys", "Print the configuration's keys with their types, defaults and meanings.")
    parser.add_argument("word", nargs="?", help="only keys that have this word in their name or meaning")
    word = parser.parse_args(arguments).word
    from mel_ray.config.keys import keys_text

    print(keys_text(word))


def mel(arguments: Sequence[str]) -> None:
    """Run the subcommand that the first word names.

    Raises:
        Ended: there is none of this name.
    """
    first, rest = (arguments[0], arguments[1:]) if arguments else ("help", [])
    if first == "help" and rest:
        first, rest = rest[0], ["--help"]
    if first == "help" or asks_for_help([first]):
        print(help_text())
    else:
        find_command(first)(rest)


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code of `mel` with these arguments, by default those of the process."""
    # As under `python -m`, so that reward.function=mine:f finds mine.py in this folder.
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    return run_command(mel, sys.argv[1:] if arguments is None else arguments)


if __name__ == "__main__":
    sys.exit(main())
