"""The gateway measured beside other proxies at the same job: `python -m bench` in the repository."""
