"""Stamp a text: `airside run --endpoint localhost:8000 stamp_task.py stamp --text hello --zeros 3`."""

from airside import TaskTemplate, kwtypes

stamp = TaskTemplate(
    name="stamp",
    task_type="stamp",
    inputs=kwtypes(text=str, zeros=int),
    outputs=kwtypes(stamp=int, digest=str),
)
