"""Tasks made with the real plugins of flytekit and Flyte 2; run in an environment of their own.

`python plugin_tasks.py` prints each template, as the plugin serialises it, in base64.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

CLUSTER = {"spark_version": "15.4.x-scala2.12", "node_type_id": "i3.xlarge", "num_workers": 2}
PLACES = {"executor_path": "/usr/bin/python3", "applications_path": "local:///usr/local/bin/entrypoint.py"}
CONF: dict[str, Any] = {"run_name": "plugin", "new_cluster": CLUSTER, "timeout_seconds": 3600, "max_retries": 1}

try:
    import flytekit
    from flytekitplugins.spark import DatabricksV2
except ImportError:
    flytekit = None
else:

    @flytekit.task(task_config=DatabricksV2(spark_conf={"spark.ui.enabled": "false"}, databricks_conf=CONF, **PLACES))
    def triple(n: int) -> int:
        """A function that Databricks runs as Flyte's own containers run it."""
        session = flytekit.current_context().spark_session
        return n * session.range(3).count()

    @flytekit.task(
        task_config=DatabricksV2(
            databricks_conf={"run_name": "plugin", "existing_cluster_id": "0923-x"},
            notebook_path="/Shared/plugin",
            notebook_base_parameters={"table": "trips"},
            **PLACES,
        )
    )
    def notebook() -> None: ...

    @flytekit.task(
        task_config=DatabricksV2(databricks_conf={"run_name": "plugin", "environment_key": "default"}, **PLACES)
    )
    def serverless(n: int) -> int:
        return n


try:
    import flyte
    from flyteplugins.databricks import Databricks
except ImportError:
    flyte = None
else:
    env = flyte.TaskEnvironment(
        name="databricks_env",
        plugin_config=Databricks(
            spark_conf={"spark.a": "1"},
            databricks_conf=CONF,
            databricks_instance="dbc-1.cloud.databricks.com",
            databricks_token="team_a",
            **PLACES,
        ),
        image="ghcr.io/example/flights:v1",
    )

    @env.task
    def double(n: int) -> int:
        return 2 * n


def of_flytekit() -> dict[str, bytes]:
    from flytekit.configuration import Image, ImageConfig, SerializationSettings
    from flytekit.tools.translator import get_serializable

    images = ImageConfig(default_image=Image("default", "ghcr.io/example/flights", "v1"))
    settings = SerializationSettings(
        project="flights", domain="development", version="v1", image_config=images, env={"A": "b"}
    )
    return {
        f"flytekit {one.name.rpartition('.')[2]}": get_serializable({}, settings, one)
        .template.to_flyte_idl()
        .SerializeToString(deterministic=True)
        for one in (triple, notebook, serverless)
    }


def of_flyte2() -> dict[str, bytes]:
    from flyte._internal.runtime.task_serde import get_proto_task
    from flyte.models import SerializationContext

    folder = Path(__file__).parent
    context = SerializationContext(version="v1", project="flights", domain="development", root_dir=folder)
    return {"flyte double": get_proto_task(double, context).SerializeToString(deterministic=True)}


if __name__ == "__main__":
    made = {**of_flytekit(), **of_flyte2()}
    print(json.dumps({name: base64.b64encode(template).decode() for name, template in made.items()}, indent=1))
