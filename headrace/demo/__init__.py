from headrace.demo.report import Report, as_json
from headrace.demo.run import Options, run
from headrace.demo.table import next_steps, rows, verdict

__all__ = ["Options", "Report", "as_json", "next_steps", "rows", "run", "verdict"]
