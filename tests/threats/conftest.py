from tests.assertion.conftest import signing
from tests.harness import house, standing_house

__all__ = ["house", "signing", "standing_house"]
