from tests.console.conftest import browser
from tests.harness import house, standing_house

__all__ = ["browser", "house", "standing_house"]
