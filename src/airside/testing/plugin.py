"""The pytest plugin: fixtures for authors' tests. Loaded by entry point, so it imports nothing heavy."""
