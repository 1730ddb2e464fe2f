"""Everything that `gateway demo` needs besides the gateway: real stores, an issuer, an upstream."""
