"""What the demo asks: three tasks on the flights that left New York in 2013."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airside.agents.duckdb_query import DuckDBQuery
from airside.agents.local_process import ProcessTask
from airside.agents.webhook import WebhookTask
from airside.model import StructuredDataset, TaskTemplate, kwtypes

WORST_AIRLINES = """
SELECT a.name AS airline, count(*) AS flights, avg(f.arr_delay) AS arrival_delay, avg(f.dep_delay) AS departure_delay
FROM read_csv($flights, nullstr = 'NA') f JOIN read_csv($airlines) a USING (carrier)
WHERE f.arr_delay IS NOT NULL
GROUP BY a.name HAVING count(*) > 1000
ORDER BY arrival_delay DESC
"""

# Reads the first task's table, computes with the standard library, and writes outputs.json where it is told to.
CATCH_UP = """
import json, os, pathlib, pyarrow.parquet, statistics, sys
rows = pyarrow.parquet.read_table(sys.argv[1]).to_pylist()
left, arrived = ([row[name] for row in rows] for name in ("departure_delay", "arrival_delay"))
best = max(rows, key=lambda row: row["departure_delay"] - row["arrival_delay"])
line = statistics.linear_regression(left, arrived)
pathlib.Path(os.environ["AIRSIDE_OUTPUT_DIR"], "outputs.json").write_text(json.dumps({
    "correlation": round(statistics.correlation(left, arrived), 3),
    "slope": round(line.slope, 3),
    "best_at_catching_up": best["airline"],
    "minutes_made_up": round(best["departure_delay"] - best["arrival_delay"], 1),
}))
"""


@dataclass(frozen=True, slots=True)
class Question:
    """One question of the demo: in words, and as the task that answers it."""

    words: str
    task: TaskTemplate
    inputs: dict[str, Any]


def worst_airlines(data: Path) -> Question:
    """A SQL question, for DuckDB."""
    task = DuckDBQuery(
        name="worst_airlines",
        query=WORST_AIRLINES,
        inputs=kwtypes(flights=str, airlines=str),
        outputs=kwtypes(results=StructuredDataset, rows=int),
    )
    files = {"flights": str(data / "flights.csv"), "airlines": str(data / "airlines.csv")}
    return Question("Which airlines' flights from New York arrived latest in 2013?", task, files)


def catching_up(table: StructuredDataset) -> Question:
    """A computation on the first answer, for a process."""
    task = ProcessTask(
        name="catching_up",
        command=[sys.executable, "-c", CATCH_UP, "{{.inputs.table}}"],
        inputs=kwtypes(table=str),
        outputs=kwtypes(correlation=float, slope=float, best_at_catching_up=str, minutes_made_up=float),
    )
    path = table.uri.removeprefix("file://")
    return Question("Does who leaves late arrive late, and who makes up most of it in the air?", task, {"table": path})


def telling(url: str, airline: str, minutes: float) -> Question:
    """An HTTP request with the second answer, for a webhook."""
    task = WebhookTask(
        name="telling",
        url=url,
        json={"airline": "{{.inputs.airline}}", "minutes_made_up": "{{.inputs.minutes}}"},
        headers={"Idempotency-Key": "{{.perRetryUniqueKey}}"},
        inputs=kwtypes(airline=str, minutes=float),
        outputs=kwtypes(status=int, received=int, said=str),
    )
    return Question("Will the server of this demo take the answer?", task, {"airline": airline, "minutes": minutes})
