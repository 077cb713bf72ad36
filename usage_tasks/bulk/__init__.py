"""`usage-tasks import`: a file of reports, streamed in chunks; a file again adds nothing.

Owns: reading CSV files and spreading them over connections. Does not own: what becomes of a report, which is
`services.import_reports`' and ends in the rows in which the task would end.

Invariants: memory holds a few chunks, however long the file is. The reports of one session keep the file's order, for
all of them go by one lane.
"""

from usage_tasks.bulk.header import ColumnRules
from usage_tasks.bulk.loading import import_file, rehearse_file

__all__ = ["ColumnRules", "import_file", "rehearse_file"]
