"""The two versions that decide numbers besides the configuration."""

CORE = 2
PIXELS = 2
