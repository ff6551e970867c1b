"""Generated tests: no deadline for one example, since the machine may be busy with other tests."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("airside", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("airside")
