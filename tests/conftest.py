"""Nothing is timed in a test: hypothesis judges no example by its duration."""

from hypothesis import settings

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
