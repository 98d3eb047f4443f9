"""Small records for tests."""

from mel_ray.records import (
    ContrastivePair,
    Draft,
    DraftFate,
    DraftState,
    Experience,
    Group,
    GroupVerdict,
    Outcome,
    Prompt,
    Trajectory,
    Verdict,
)
from mel_ray.records.exploration import DraftTicket, Exploration, GroupTicket, JudgedDraft, ReplayTicket


def prompt(question: str = "1 + 1?", answer: str = "2", tokens: int = 3, question_id: str = "q") -> Prompt:
    return Prompt(question_id, question, answer, list(range(1, tokens + 1)))


def trajectory(length: int = 4, text: str = "\\boxed{2}", finish: str = "stop", version: int = 1) -> Trajectory:
    return Trajectory(list(range(length)), [-0.5] * length, text, finish, 0, version)


def group(lengths: tuple[int, ...] = (4, 4), question_id: str = "q", finish: str = "stop") -> Group:
    return Group(prompt(question_id=question_id), tuple(trajectory(n, finish=finish) for n in lengths))


def verdict(*outcomes: str) -> GroupVerdict:
    """`verdict("c", "w")`: c correct, w wrong, n no answer, t timeout, e error."""
    names = {"c": "correct", "w": "wrong", "n": "no_answer", "t": "timeout", "e": "error"}
    return GroupVerdict(tuple(Verdict(Outcome(names[o])) for o in outcomes))


def ticket(lengths: tuple[int, ...], ref: str = "ref") -> GroupTicket:
    return GroupTicket(ref, group(lengths).facts())


def exploration(lengths: tuple[int, ...], outcomes: str, drafts: tuple = (), ref: str = "ref") -> Exploration:
    return Exploration(ticket(lengths, ref), verdict(*outcomes), drafts)


def draft(state: DraftState = DraftState.PARSED, length: int = 5, context: int = 7) -> Draft:
    experience = Experience("Step 1", "It erred.", ("If a, then b.",)) if state is DraftState.PARSED else None
    written = Group(prompt(tokens=context), (trajectory(length, text="M"),))
    return Draft("1 + 1?", "2", "q", ContrastivePair(0, 1), "good", "bad", written, experience, state)


def draft_ticket(state: DraftState = DraftState.PARSED, index: int = 0, length: int = 5) -> DraftTicket:
    return DraftTicket("drafts", index, draft(state, length).facts())


def proven_draft(index: int = 0, length: int = 5, replay_outcomes: str = "wc") -> JudgedDraft:
    """A lesson: a draft whose replays, of 3 tokens each, came out as given."""
    drafted = draft_ticket(index=index, length=length)
    replays = ReplayTicket(drafted, ticket((3,) * len(replay_outcomes), "replays"))
    return JudgedDraft(drafted, DraftFate.TRAINED, replays, verdict(*replay_outcomes))
