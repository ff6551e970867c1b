"""Try every service and write what came out to `docs/conformance`: `make conformance`."""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from conformance.pages import DOCS, overview, page
from conformance.services import AIRSIDE, SERVICES, judge

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # a connection that a service closes is for the report to tell
slow = "--slow" in sys.argv
with ThreadPoolExecutor(len(SERVICES) if slow else 1) as threads:
    reports = threads.map(partial(judge, slow=slow), SERVICES)
    judged = dict(zip(SERVICES, reports, strict=True))
for service, report in judged.items():
    (DOCS / f"{service.name}.md").write_text(page(service, report))
    print(f"{service.title}: {report.summary()}")
(DOCS / "README.md").write_text(overview(judged))
sys.exit(not judged[AIRSIDE].ok)
