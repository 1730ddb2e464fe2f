"""The diagnosis of one token, step by step, with the same parts as the hot path."""

from gateway.explain.answer import Cause, Explanation, Fix, Step
from gateway.explain.engine import Explainer
from gateway.explain.setup import Keys, Login, Setup

__all__ = ["Cause", "Explainer", "Explanation", "Fix", "Keys", "Login", "Setup", "Step"]
