"""Write the files that derive from code, or with --check fail if one of them is stale."""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def generated() -> dict[Path, str]:
    """Content of each generated file."""
    sys.path.insert(0, str(ROOT / "dags"))
    os.environ.setdefault("AIRFLOW_HOME", str(ROOT / ".dwcp" / "airflow"))
    from dwcp.quality.dictionary import render as data_dictionary

    return {ROOT / "docs" / "data_dictionary.md": data_dictionary()}


def main() -> int:
    """0 if every file is up to date, or was written."""
    stale = [path for path, text in generated().items() if not path.exists() or path.read_text() != text]
    if "--check" in sys.argv:
        for path in stale:
            print(f"{path.relative_to(ROOT)} is stale: run make generate")
        return bool(stale)
    for path in stale:
        path.write_text(generated()[path])
        print(f"wrote {path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
