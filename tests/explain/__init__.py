import pytest

# They are no tests themselves, and yet say what was found when they fail.
pytest.register_assert_rewrite("tests.explain.scene", "tests.explain.world")
