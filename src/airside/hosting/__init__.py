"""Adapters that make agents written against other interfaces ours."""

ADAPTERS = ()
