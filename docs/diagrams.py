"""Draw the Mermaid diagrams of the pages as SVG files, so that the site needs no JavaScript for them.

``python docs/diagrams.py`` draws those that are new or changed and removes the files of others. It needs npm,
and Playwright with Debian's Chromium. The name of a file is a hash of the diagram's text, by which
docs/conf.py finds it. A diagram without a drawing is a warning there.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DIAGRAMS = ROOT / "docs" / "images" / "diagrams"
MERMAID = "mermaid@11.12.0"
DRAW = """async ([name, text]) => {
    mermaid.initialize({
        startOnLoad: false, theme: 'neutral', fontFamily: 'Arial, Helvetica, sans-serif', htmlLabels: false,
        deterministicIds: true, flowchart: { htmlLabels: false }, sequence: { useMaxWidth: true },
    });
    return (await mermaid.render(name, text)).svg;
}"""


def file_name(text: str) -> str:
    """Return the name of the file that has the drawing of a diagram."""
    return hashlib.sha256(text.strip().encode()).hexdigest()[:12] + ".svg"


def found() -> dict[str, str]:
    """Return the texts of all diagrams by the names of their files."""
    texts = [
        text
        for page in sorted((ROOT / "docs").glob("*.md"))
        for text in re.findall(r"^```mermaid\n(.*?)^```$", page.read_text(encoding="utf-8"), re.M | re.S)
    ]
    return {file_name(text): text for text in texts}


def _shorter(svg: str) -> str:
    """Round the coordinates, and leave out the data that only Mermaid's editors read."""
    svg = re.sub(r' data-(?:points|look|id|et|node|edge)="[^"]*"', "", svg)
    return re.sub(r"(\d+\.\d)\d+", r"\1", svg)


def main() -> None:
    """Draw the missing diagrams and remove the files that no page uses."""
    texts = found()
    DIAGRAMS.mkdir(parents=True, exist_ok=True)
    for path in DIAGRAMS.glob("*.svg"):
        if path.name not in texts:
            path.unlink()
    missing = {name: text for name, text in texts.items() if not (DIAGRAMS / name).exists()}
    if not missing:
        return
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        subprocess.run(["npm", "install", "--silent", "--prefix", folder, MERMAID], check=True)
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page()
        page.add_script_tag(path=f"{folder}/node_modules/mermaid/dist/mermaid.min.js")
        for name, text in missing.items():
            svg = page.evaluate(DRAW, ["diagram-" + name.removesuffix(".svg"), text])
            (DIAGRAMS / name).write_text(_shorter(svg) + "\n", encoding="utf-8")
        browser.close()


if __name__ == "__main__":
    main()
