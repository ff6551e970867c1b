"""FlytePropeller's and Flyte 2's YAML as people write it: every spelling, every bound, every mistake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from airside import TaskType, UsageError
from airside.engine.flyteconfig import DEFAULT, Rate, load_config, read_config, read_go_duration
from airside.engine.routes import NoRoute, find_route

OLD = """
tasks: {task-plugins: {enabled-plugins: [container, agent-service], default-for-task-types: {sleeper: container}}}
plugins:
  agent-service:
    supportedTaskTypes: [custom_task, other_task]
    defaultAgent:
      endpoint: "k8s://flyteagent.flyte:8000"
      insecure: true
      timeouts: [{CreateTask: 5s}, {GetTask: 6s}, {ListAgents: 1m30s}]
      defaultTimeout: 10s
      defaultServiceConfig: '{"loadBalancingConfig": [{"round_robin":{}}]}'
    agents:
      Custom_Agent: {endpoint: "dns:///custom.flyte.svc.cluster.local:8000"}
    agentForTaskTypes:
      - custom_task: custom_agent
    pollInterval: 20s
    colour: blue
    webApi: {caching: {resyncInterval: 45s, workers: 20, maxSystemFailures: 7, size: 1000}, readRateLimiter: {qps: 5}}
"""


def agent_service(**section: Any) -> dict[str, Any]:
    return {"plugins": {"agent-service": section}}


def test_the_documented_form(tmp_path: Path) -> None:
    file = tmp_path / "flyte.yaml"
    file.write_text(OLD)
    config = load_config(file)
    (section,) = config.sections
    assert section.default is not None
    assert (section.default.id, section.default.insecure) == (DEFAULT, True)
    assert section.default.endpoint == "dns:///flyteagent.flyte.svc.cluster.local:8000"
    assert section.default.timeouts == {"createtask": 5.0, "gettask": 6.0, "listagents": 90.0, "default": 10.0}
    (named,) = section.deployments
    assert (named.insecure, named.timeouts, named.service_config) == (False, {"default": 0.0}, "")
    assert section.pins == {"custom_task": named}
    assert (section.poll_interval, section.supported) == (20.0, ("custom_task", "other_task"))
    api = section.web_api
    assert (api.resync_interval, api.max_system_failures, api.limits.workers) == (45.0, 7, 20)
    assert (api.limits.read, api.limits.write, api.limits.quota) == (Rate(5.0, 100), Rate(10.0, 100), 1000)
    assert [warning.removeprefix(f"{file}: ") for warning in config.warnings] == [
        "plugins.agent-service.colour is not known and is ignored",
        "plugins.agent-service.defaultAgent.endpoint: k8s://flyteagent.flyte:8000 is reached as "
        "dns:///flyteagent.flyte.svc.cluster.local:8000, balanced by its Service",
    ]


def test_the_defaults_differ_by_plugin() -> None:
    both = {
        "plugins": {
            "AGENT-SERVICE": {"DefaultAgent": {"endpoint": "a:1"}},
            "connector-service": {"defaultconnector": {"endpoint": "c:1"}},
        }
    }
    connector, agent = read_config(both, "f").sections
    assert connector.default is not None
    assert agent.default is not None
    assert (connector.default.timeouts, agent.default.timeouts) == ({"default": 10.0}, {"default": 3.0})
    assert connector.default.insecure
    assert find_route(read_config(both, "f"), {}, TaskType("x")).deployment == connector.default


def test_a_type_may_be_given_to_one_of_the_plugins() -> None:
    document = agent_service(defaultAgent={"endpoint": "a:1"})
    document["tasks"] = {"task-plugins": {"default-for-task-types": [{"spark": "agent-service"}, {"box": "container"}]}}
    config = read_config(document, "f")
    assert find_route(config, {}, TaskType("spark")).why == "the default deployment"
    with pytest.raises(UsageError, match="Task type box is routed to the plugin 'container'"):
        find_route(config, {}, TaskType("box"))


@pytest.mark.parametrize(
    ("section", "problem"),
    [
        ({"webApi": {"caching": {"resyncInterval": "4s"}}}, "webApi.caching.resyncInterval: must be between 5s and 1h"),
        ({"webApi": {"caching": {"resyncInterval": "61m"}}}, "must be between 5s and 1h, is 3660 s"),
        ({"webApi": {"caching": {"workers": 0}}}, "workers: must be a whole number from 1 to 10000, is 0"),
        ({"webApi": {"caching": {"size": 9}}}, "size: must be a whole number from 10 to 500000, is 9"),
        ({"webApi": {"readRateLimiter": {"qps": 0}}}, "readRateLimiter.qps: must be a whole number from 1 to 100000"),
        ({"webApi": {"writeRateLimiter": {"burst": 4}}}, "writeRateLimiter.burst: must be a whole number from 5"),
        ({"pollInterval": 0}, "pollInterval: must be longer than 0"),
        ({"pollInterval": "soon"}, "pollInterval: expected a duration such as 10s or 1m30s, got 'soon'"),
        ({"defaultAgent": {"endpoint": "a:1", "insecure": "yes"}}, "insecure: must be true or false, is 'yes'"),
        (
            {"agentForTaskTypes": {"x": "nobody"}},
            r"agentForTaskTypes.x: there is no deployment 'nobody' \(there are: n",
        ),
        ({"agents": "all"}, "agents: expected a mapping or a list of mappings, got 'all'"),
        ({"supportedTaskTypes": "x"}, "supportedTaskTypes: expected a list, got 'x'"),
        ({"defaultAgent": ["a:1"]}, "defaultAgent: expected a mapping, got list"),
    ],
)
def test_mistakes_name_their_key(section: dict[str, Any], problem: str) -> None:  # E38
    with pytest.raises(UsageError, match=problem):
        read_config(agent_service(**section), "f.yaml")


def test_a_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot be read"):
        load_config(tmp_path / "nope.yaml")
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(UsageError, match="is no YAML"):
        load_config(tmp_path / "bad.yaml")
    (tmp_path / "empty.yaml").write_text("")
    with pytest.raises(UsageError, match=r"has neither plugins\.agent-service nor plugins\.connector-service"):
        load_config(tmp_path / "empty.yaml")


def test_a_project_without_a_domain_is_told() -> None:
    section = {"connectors": {"a": {"endpoint": "a:1", "project": "p"}}}
    config = read_config({"plugins": {"connector-service": section}}, "f")
    assert config.warnings == (
        "f: plugins.connector-service.connectors.a has a project but no domain, so it never matches",
    )


@pytest.mark.parametrize("text", ["", "5", "s", "5 s", "1x", True])
def test_what_is_no_duration(text: object) -> None:
    with pytest.raises(ValueError, match="expected a duration"):
        read_go_duration(text)


def warned(section: dict[str, Any], kind: str = "connector-service", **tasks: Any) -> tuple[str, ...]:
    document = {"plugins": {kind: section}, "tasks": {"task-plugins": tasks}}
    return tuple(one.removeprefix(f"f: plugins.{kind}.") for one in read_config(document, "f").warnings)


def test_what_has_no_effect_is_told() -> None:
    default = {"endpoint": "a:1", "timeouts": {"CreateTask": "5s", "MakeTask": "5s"}}
    quotas = {"default": 5, "other": 6}
    assert warned(
        {
            "defaultConnector": default,
            "connectors": {"b": {"insecure": True}},
            "resourceConstraints": {},
            "webApi": {"resourceQuotas": quotas},
        }
    ) == (
        "resourceConstraints has no effect here; webApi.resourceQuotas has",
        "defaultConnector.timeouts.maketask is no call of an agent service and is ignored",
        "connectors.b has no endpoint, so it is ignored",
        "webApi.resourceQuotas.other is not known and is ignored",
    )
    assert warned({"defaultConnector": {"endpoint": "a:1"}, "connectorApps": {"x": {"endpoint": "b:1"}}}) == ()
    assert warned({"defaultAgent": {"endpoint": "a:1"}, "connectorApps": {}}, "agent-service") == (
        "connectorapps is not known and is ignored",
    )


def test_a_plugin_that_is_not_enabled_routes_nothing() -> None:
    section = {"defaultAgent": {"endpoint": "a:1"}}
    both = {"agent-service": section, "connector-service": {"defaultConnector": {"endpoint": "b:1"}}}
    tasks = {"task-plugins": {"enabled-plugins": ["container", "agent-service"]}}
    config = read_config({"plugins": both, "tasks": tasks}, "f")
    assert [one.kind for one in config.sections] == ["agent-service"]
    assert config.warnings == (
        "f: plugins.connector-service is ignored, because tasks.task-plugins.enabled-plugins does not name it",
    )
    with pytest.raises(UsageError, match="enabled-plugins: must name agent-service, or nothing is routed"):
        read_config({"plugins": {"agent-service": section}, "tasks": {"task-plugins": {"enabled-plugins": ["x"]}}}, "f")


@pytest.mark.parametrize("found", ["{", "[]", "round_robin", [1]])
def test_a_service_config_that_is_none(found: object) -> None:
    section = {"defaultAgent": {"endpoint": "a:1", "defaultServiceConfig": found}}
    with pytest.raises(UsageError, match=r"defaultServiceConfig: (is no JSON|must be a JSON object)"):
        read_config({"plugins": {"agent-service": section}}, "f")


def test_a_service_config_may_be_a_mapping() -> None:
    section = {"defaultAgent": {"endpoint": "a:1", "defaultServiceConfig": {"loadBalancingPolicy": "pick_first"}}}
    default = read_config({"plugins": {"agent-service": section}}, "f").sections[0].default
    assert default is not None
    assert default.service_config == '{"loadBalancingPolicy": "pick_first"}'


def test_the_files_of_a_folder_are_one(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("plugins: {agent-service: {defaultAgent: {endpoint: a:1}, pollInterval: 5s}}")
    (tmp_path / "b.yml").write_text(
        "Plugins: {agent-service: {DefaultAgent: {endpoint: b:1}, agents: {c: {endpoint: c:1}}}}"
    )
    (tmp_path / "c.yaml").write_text("")
    (tmp_path / "notes.txt").write_text("- no YAML for us")
    (section,) = load_config(tmp_path).sections
    assert section.default is not None
    assert (section.default.endpoint, section.poll_interval, section.deployments[0].endpoint) == ("b:1", 5.0, "c:1")
    (tmp_path / "d.yaml").write_text("- a list")
    with pytest.raises(UsageError, match=r"d\.yaml: the document: expected a mapping, got list"):
        load_config(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"empty has no file that ends in \.yaml or \.yml"):
        load_config(tmp_path / "empty")


def test_capitals_do_not_matter_to_the_plugin_of_a_type() -> None:
    document = {
        "plugins": {"agent-service": {"defaultAgent": {"endpoint": "a:1"}}},
        "tasks": {"task-plugins": {"default-for-task-types": {"Heavy_Job": "Container"}}},
    }
    config = read_config(document, "f")
    for name in ("heavy_job", "Heavy_Job", "HEAVY_JOB"):
        with pytest.raises(NoRoute, match="is routed to the plugin 'Container' by default-for-task-types"):
            find_route(config, {}, TaskType(name))


def test_a_misspelt_key_of_the_plugins_is_told() -> None:
    assert warned({}, **{"default-for-task-type": {"x": "container"}}) == (
        "f: tasks.task-plugins.default-for-task-type is not known and is ignored",
    )
