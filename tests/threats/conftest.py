from tests.harness import house, standing_house

__all__ = ["house", "standing_house"]
