"""Settings of all tests."""

from hypothesis import settings

# Shared machines stall now and then; a slow example is not a wrong one.
settings.register_profile("simvtp", deadline=None, max_examples=50)
settings.load_profile("simvtp")
