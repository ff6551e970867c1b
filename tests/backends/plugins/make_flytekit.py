"""Run by the Python that has flytekit and a plugin: write the template and the inputs of a task as Flyte sends them.

make_flytekit.py FILE TASK INPUTS_JSON TEMPLATE INPUTS
"""

import importlib.util
import json
import sys
from collections import OrderedDict
from pathlib import Path

from flytekit import FlyteContextManager
from flytekit.configuration import ImageConfig, SerializationSettings
from flytekit.core.type_engine import TypeEngine
from flytekit.tools.translator import get_serializable

file, name, values, template, inputs = sys.argv[1:]
spec = importlib.util.spec_from_file_location("wf", file)
module = importlib.util.module_from_spec(spec)
sys.modules["wf"] = module
spec.loader.exec_module(module)
task = getattr(module, name)
settings = SerializationSettings(image_config=ImageConfig.auto(), project="flights", domain="development", version="v1")
Path(template).write_bytes(get_serializable(OrderedDict(), settings, task).template.to_flyte_idl().SerializeToString())
literals = TypeEngine.dict_to_literal_map(
    FlyteContextManager.current_context(), json.loads(values), task.get_input_types()
)
Path(inputs).write_bytes(literals.to_flyte_idl().SerializeToString())
