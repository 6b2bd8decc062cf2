# SPDX-License-Identifier: MIT
"""Paths, and the fixtures that more than one test uses."""
import os
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(ROOT / "tools"), str(HERE)]

GOLDEN = ROOT / "tests" / "golden"


@pytest.fixture
def shared():
    """The folder of real models beside the repository, or $FOLIO_SHARED."""
    for folder in (os.environ.get("FOLIO_SHARED"), ROOT.parent / "shared"):
        if folder and (Path(folder) / "models").is_dir():
            return Path(folder) / "models"
    pytest.skip("no shared models: neither ../shared beside the repository nor $FOLIO_SHARED")


@pytest.fixture
def convert(tmp_path, capsys):
    """convert(source, *flags, out=NAME) -> the .folio, read; it must succeed."""
    import convert as tool
    from folio import format

    def run(source, *flags, out="out.folio"):
        path = tmp_path / out
        assert tool.main([str(source), "-o", str(path), *map(str, flags)]) == 0, capsys.readouterr().err
        assert not list(tmp_path.glob("*.part"))
        run.report = capsys.readouterr().out
        return format.read(path) if path.suffix == ".folio" else path

    return run


@pytest.fixture
def refuse(tmp_path, capsys):
    """refuse(source, *flags) -> the sentence on stderr; it must fail and leave nothing."""
    import convert as tool

    def run(source, *flags, out=None):
        path = Path(out) if out else tmp_path / "refused.folio"
        assert tool.main([str(source), "-o", str(path), *map(str, flags)]) == 1
        said = capsys.readouterr()
        assert said.err.startswith("convert.py: ") and said.err.count("\n") == 1 and not said.out
        assert not path.exists() and not list(tmp_path.glob("**/*.part"))
        return said.err

    return run
