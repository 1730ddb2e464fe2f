"""Reads the exports of identity providers as they are: whatever their format, encoding and compression.

From the bottom: `text` turns bytes into text; `json_records` and `csv_records` turn text into records, one at
a time; `layouts` knows what the providers write; `fields` finds the fields of a record, and `accounts` reads
them; `export` puts all of it together. Nothing here knows a store, and nothing holds more than the first
records in memory.
"""
