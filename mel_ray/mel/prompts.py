"""What the policy is asked in the meta-experience loop; the wording lives in `conf/mel/template/`."""

from mel_ray.config.templates import MelTemplate, render


def abstraction_prompt(template: MelTemplate, question: str, incorrect: str, correct: str) -> str:
    """C_retro = [I, x, y+, y-], the incorrect solution shown first (MEL Eqs. 2-4)."""
    return render(template.abstraction, question=question, incorrect=incorrect.strip(), correct=correct.strip())


def replay_prompt(template: MelTemplate, question: str, experience: str) -> str:
    """x with M as short-term memory (MEL Eq. 6)."""
    return render(template.replay, question=question, experience=experience.strip())
