"""What can be known to be wrong with `mel`: what would have no effect, what excludes each other, templates."""

import re
from collections.abc import Iterator

from mel_ray.config.schema import Config
from mel_ray.config.templates import template_problem
from mel_ray.records.problem import Problem

_TEMPLATE_FIELDS = {
    "abstraction": ("question", "incorrect", "correct"),
    "abstraction_from_answer": ("question", "incorrect", "answer"),
    "replay": ("question", "experience"),
}


def find_mel_problems(config: Config) -> Iterator[Problem]:
    mel = config.mel
    if mel.sections == "heuristics" and mel.target == "replay":
        yield Problem("mel.sections", "heuristics", "a replay has no sections", "use all, or mel.target=experience")
    if mel.enabled and mel.weight == 0 and not mel.credit:
        yield Problem("mel.weight", 0, "meta-experiences would be made and not learned", "use mel.enabled=false")
    if mel.correction != "none" and "augment" not in mel.credit:
        why = "no replay is trained, so there is nothing to correct"
        yield Problem("mel.correction", mel.correction, why, "set mel.credit=augment")
    if mel.enabled and "hint" in mel.credit and mel.replay_max_tokens < config.rollout.max_tokens:
        why = "attempts are read with the lesson in the prompt, and might be longer than what fits there"
        yield Problem("mel.replay_max_tokens", mel.replay_max_tokens, why, "make it at least rollout.max_tokens")
    if mel.enabled and mel.lesson != "own" and mel.weight:
        why = "a replay that was shown something else proves nothing about the meta-experience that would be trained"
        yield Problem("mel.lesson", mel.lesson, why, "set mel.weight=0 and mel.credit=augment")
    if mel.contrast != "none" and "hint" not in mel.credit:
        why = "no lesson gives a token credit, so there is nothing to subtract from"
        yield Problem("mel.contrast", mel.contrast, why, "set mel.credit=hint")
    if mel.contrast != "none" and mel.pairs_per_group < 2:
        why = "a question has one lesson, so there is no other that failed"
        yield Problem("mel.contrast", mel.contrast, why, "raise mel.pairs_per_group")
    retrieval = mel.retrieval
    if retrieval.method == "embedding" and retrieval.model is None:
        yield Problem("mel.retrieval.model", None, "embeddings need a model", "name an encoder's folder or hub id")
    if retrieval.method != "none" and mel.enabled and not mel.credit:
        why = "a lesson of another question is not trained itself, and nothing else would come of it"
        yield Problem("mel.retrieval.method", retrieval.method, why, "set mel.credit=augment or mel.credit=hint")
    if (retrieval.method != "none" or mel.lesson == "shuffled") and config.run.replay_order is not None:
        why = "which lessons are known when a question is asked depends on time, where batches are explored ahead"
        remedy = "set mel.retrieval.method=none and mel.lesson=own"
        yield Problem("run.replay_order", config.run.replay_order, why, remedy)
    if retrieval.method != "none" and mel.lesson != "own":
        why = "lessons would be found that were tested with another text in their place"
        yield Problem("mel.lesson", mel.lesson, why, "set mel.lesson=own, or mel.retrieval.method=none")
    is_unheard = mel.enabled and mel.write != "mixed" and not mel.credit
    if is_unheard and config.algorithm.dynamic_sampling.enabled:
        why = "dynamic sampling throws all-wrong groups away, and their lessons with them"
        yield Problem("mel.write", mel.write, why, "use mixed, or set mel.credit=augment or mel.credit=hint")
    if mel.min_gain and mel.keep != "gain":
        yield Problem("mel.min_gain", mel.min_gain, "only a gain is held against it", "set mel.keep=gain")
    if mel.write != "mixed" and mel.template.abstraction_from_answer is None:
        why = f"the template {mel.template.name} has no prompt for a group without a correct solution"
        yield Problem("mel.write", mel.write, why, "give it mel.template.abstraction_from_answer, or write=mixed")
    if mel.min_correct_replays > mel.replays:
        yield Problem(
            "mel.min_correct_replays",
            mel.min_correct_replays,
            f"there are only mel.replays={mel.replays}",
            "lower it or raise mel.replays",
        )
    for name, fields in _TEMPLATE_FIELDS.items():
        prompt = getattr(mel.template, name)
        if prompt is not None and (malformed := template_problem(prompt, *fields)):
            yield Problem(f"mel.template.{name}", None, malformed, f"use only {', '.join(fields)}")
    for name in ("heuristic_pattern", "bifurcation_pattern"):
        pattern = getattr(mel.template, name)
        try:
            re.compile(pattern or "")
        except re.error as error:
            yield Problem(f"mel.template.{name}", pattern, f"not a regular expression: {error}")
    fed = {field for section in mel.template.sections for field in section.fields}
    for missing in {"bifurcation", "critique", "heuristics"} - fed:
        yield Problem("mel.template.sections", None, f"no section feeds '{missing}'", "add it to a section's fields")
