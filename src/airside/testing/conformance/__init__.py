"""The conformance suite: the rules of Flyte's agent protocol, tried on a running service over real gRPC.

`check_agent("my_module:MyAgent")` serves an agent and tries every case that applies, on both wire families.
"""

from airside.testing.conformance.report import Exchange, Report, Result, Status
from airside.testing.conformance.suite import CASES, check_agent, run_cases

__all__ = ("CASES", "Exchange", "Report", "Result", "Status", "check_agent", "run_cases")
