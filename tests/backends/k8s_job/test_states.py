"""The tables of the k8s_job agent hold what the API's own description names. Needs no cluster."""

from __future__ import annotations

import re

from kubernetes import client

from airside.agents.k8s_job_states import CONDITIONS, POD_PHASES


def test_every_phase_of_a_pod_is_in_the_table() -> None:
    described = client.V1PodStatus.model_fields["phase"].description
    values = described.partition("phase values:")[2].partition("More info")[0]
    assert set(re.findall(r"(\w+): [A-Z]", values)) == set(POD_PHASES)


def test_every_condition_of_a_job_is_in_the_table() -> None:
    described = client.V1JobStatus.model_fields["conditions"].description
    named = set(re.findall(r'"(\w+)"', described))
    assert named >= {"Complete", "Failed", "Suspended"}
    assert named <= set(CONDITIONS)
