"""Airside and flytekit side by side on one machine: `make bench`."""
