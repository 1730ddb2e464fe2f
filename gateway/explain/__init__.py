"""The diagnosis of one token, step by step, from the very parts that the hot path uses."""

from gateway.explain.answer import Cause, Explanation, Fix, Step
from gateway.explain.engine import Explainer
from gateway.explain.setup import Keys, Setup

__all__ = ["Cause", "Explainer", "Explanation", "Fix", "Keys", "Setup", "Step"]
