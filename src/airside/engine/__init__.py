"""Drives a task to a terminal phase."""
