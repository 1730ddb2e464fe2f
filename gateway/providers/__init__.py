"""What the large token providers issue, and issuer settings that fit it. Pure: no I/O, no clock."""
