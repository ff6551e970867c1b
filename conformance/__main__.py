"""Try every service and write what came out to `docs/conformance`: `make conformance`."""

from __future__ import annotations

import sys

from conformance.pages import DOCS, overview, page
from conformance.services import AIRSIDE, SERVICES, judge

judged = {service: judge(service) for service in SERVICES}
for service, report in judged.items():
    (DOCS / f"{service.name}.md").write_text(page(service, report))
    print(f"{service.title}: {report.summary()}")
(DOCS / "README.md").write_text(overview(judged))
sys.exit(not judged[AIRSIDE].ok)
