from tests.proxy.downstream.limited import standing_tight, tight

__all__ = ["standing_tight", "tight"]
