"""`make verdicts`: what the gateway and Envoy each say of mutated tokens, and by which clause they differ."""
