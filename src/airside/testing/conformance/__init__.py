"""The conformance suite: the rules of Flyte's agent protocol, tried on a running service over real gRPC.

`check_agent("my_module:MyAgent")` serves an agent and tries every case that applies, on both wire families.
`check_endpoint("localhost:8000")` tries those that can be judged from outside, on a service in any language.
"""

from airside.testing.conformance.endpoint import Template, check_endpoint, read_template_file
from airside.testing.conformance.report import Exchange, Report, Result, Status
from airside.testing.conformance.suite import CASES, check_agent, run_cases

__all__ = (
    "CASES",
    "Exchange",
    "Report",
    "Result",
    "Status",
    "Template",
    "check_agent",
    "check_endpoint",
    "read_template_file",
    "run_cases",
)
