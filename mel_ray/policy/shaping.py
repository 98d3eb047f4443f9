"""What is added to a verdict's reward before advantages are computed."""


def overlong_penalty(length: int, max_tokens: int, zone: float) -> float:
    """0 up to `max_tokens - zone`, then falling linearly to -1 at `max_tokens`, -1 beyond (DAPO Eq. 13, arXiv
    2503.14476).

    All in tokens. Failure case: a zone of 0 is a step: -1 only beyond `max_tokens`.
    """
    if length <= max_tokens - zone:
        return 0.0
    return -1.0 if length > max_tokens else (max_tokens - zone - length) / zone


def shaped(reward: float | None, incorrect_reward: float, penalty: float = 0.0) -> float | None:
    """The verdict's reward in [0, 1] mapped onto [`incorrect_reward`, 1], plus a penalty; None stays None."""
    return None if reward is None else incorrect_reward + (1.0 - incorrect_reward) * reward + penalty
