"""Count primes: `airside run --endpoint localhost:8000 primes_task.py primes --limit 100`."""

from airside import TaskTemplate, kwtypes

primes = TaskTemplate(
    name="primes",
    task_type="count_primes",
    inputs=kwtypes(limit=int),
    outputs=kwtypes(count=int, largest=int),
)
