import io

import pytest
from rich.console import Console

from headrace.demo.report import conclusion
from headrace.demo.run import DemoOptions, run
from headrace.native.layout import StateDir

pytestmark = [pytest.mark.stack, pytest.mark.slow, pytest.mark.timeout(240)]


def test_a_short_demonstration_adds_up_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    talk = io.StringIO()
    report = run(DemoOptions(store="local", seconds=5), tmp_path / "state", Console(file=talk))
    assert report.good, "\n".join(conclusion(report))
    assert report.findings.published > 100
    assert report.findings.duplicates > 0
    assert report.findings.consumed == {"preprocessing": 100, "perception": 100}
    assert list(tmp_path.iterdir()) == []
    assert "stopped in" in talk.getvalue()
    assert not StateDir.at(tmp_path / "state").root.exists()
