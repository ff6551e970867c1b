"""One event, a list of hooks: logs, metrics, traces."""
