"""Run by the Python that has Flyte 2's SDK and a plugin: write a task's template and inputs as Flyte sends them.

make_flyte2.py FILE TASK INPUTS_JSON TEMPLATE INPUTS
"""

import asyncio
import importlib.util
import json
import sys
from pathlib import Path

from flyte._internal.runtime.convert import convert_from_native_to_inputs
from flyte._internal.runtime.task_serde import get_proto_task
from flyte.models import SerializationContext

file, name, values, template, inputs = sys.argv[1:]
spec = importlib.util.spec_from_file_location("wf", file)
module = importlib.util.module_from_spec(spec)
sys.modules["wf"] = module
spec.loader.exec_module(module)
task = getattr(module, name)
context = SerializationContext(
    version="v1", project="flights", domain="development", org="airline", root_dir=Path(file).parent
)
Path(template).write_bytes(get_proto_task(task, context).SerializeToString())
made = asyncio.run(convert_from_native_to_inputs(task.native_interface, **json.loads(values)))
Path(inputs).write_bytes(made.proto_inputs.SerializeToString())
