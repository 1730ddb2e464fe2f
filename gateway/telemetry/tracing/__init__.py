"""Traces for OpenTelemetry, configured by its standard `OTEL_*` variables.

`environment` reads whether there are any, `sampling` which requests have one, `span` is what the rest of the
gateway knows of a trace, and `sdk`, the only file that imports OpenTelemetry, makes and exports it.
"""
