"""A plain script with files: a spreadsheet goes in, a report comes out.

    pip install openpyxl "n8nrunner[node]"
    n8nrunner node --install                   # once, then restart n8n
    python -m samples.report

It needs N8N_RUNNERS_AUTH_TOKEN with n8n's value. In a workflow, put the node *Python Function* after a node
that gives a spreadsheet, such as a form, an e-mail or a folder. Choose the runner *report* and the function
*Summarize*. *Spreadsheet* is the name of the item's file, such as "data".
"""

from __future__ import annotations

import collections
import io
import zipfile
from typing import Any, DefaultDict, Dict, List

import openpyxl
from openpyxl.chart import BarChart, Reference
from openpyxl.utils.exceptions import InvalidFileException

from n8nrunner import File, Runner, Task, TaskError

MIME = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"

runner = Runner(name="report")


@runner.function
def summarize(
    spreadsheet: File, task: Task, group_by: str = "region", amount: str = "amount"
) -> Dict[str, Any]:
    """Sum up a spreadsheet.

    Args:
        spreadsheet: An Excel file whose first sheet has a row of headings.
        group_by: The heading of the column to group by.
        amount: The heading of the column to sum up.
    """
    rows = _rows_of(spreadsheet)
    totals: DefaultDict[str, float] = collections.defaultdict(float)
    for number, row in enumerate(rows, start=2):
        for heading in (group_by, amount):
            if heading not in row:
                raise TaskError(f"The spreadsheet has no column {heading!r}", f"It has: {', '.join(row)}.")
        value = row[amount]
        if not isinstance(value, (int, float)):
            raise TaskError(f"Row {number}: expected a number under {amount!r}, got {value!r}")
        totals[str(row[group_by])] += value
    task.log(f"{len(rows)} rows of {spreadsheet.filename}")
    report = File(_report_of(totals, group_by, amount), "report.xlsx", MIME)
    return {"rows": len(rows), "total": sum(totals.values()), "groups": dict(totals), "report": report}


def _rows_of(spreadsheet: File) -> List[Dict[str, Any]]:
    try:
        book = openpyxl.load_workbook(io.BytesIO(spreadsheet.read()), read_only=True, data_only=True)
    except (zipfile.BadZipFile, InvalidFileException, KeyError):
        raise TaskError(f"{spreadsheet.filename or 'The file'} is not an Excel file (.xlsx)") from None
    headings, *rows = list(book.worksheets[0].iter_rows(values_only=True)) or [()]
    return [dict(zip(map(str, headings), row)) for row in rows if any(value is not None for value in row)]


def _report_of(totals: Dict[str, float], group_by: str, amount: str) -> bytes:
    """Return an Excel file with the totals, the largest first, and a chart of them."""
    book = openpyxl.Workbook()
    sheet = book.active
    sheet.title = "Report"
    sheet.append([group_by, amount])
    for group, total in sorted(totals.items(), key=lambda pair: -pair[1]):
        sheet.append([group, total])
    chart = BarChart()
    chart.title = f"{amount} by {group_by}"
    chart.add_data(Reference(sheet, min_col=2, min_row=1, max_row=1 + len(totals)), titles_from_data=True)
    chart.set_categories(Reference(sheet, min_col=1, min_row=2, max_row=1 + len(totals)))
    sheet.add_chart(chart, "D2")
    content = io.BytesIO()
    book.save(content)
    return content.getvalue()


if __name__ == "__main__":
    runner.run()
