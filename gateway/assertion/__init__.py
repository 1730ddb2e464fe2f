"""Signed identity: the signer of assertions, and the keys that all gateways share."""
