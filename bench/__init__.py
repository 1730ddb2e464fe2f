"""Benchmarks of the gateway and other proxies at the same job: `python -m bench` in the repository."""
