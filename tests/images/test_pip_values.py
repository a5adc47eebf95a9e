"""What of pip's environment a build may hold."""

from __future__ import annotations

import pytest

from scripts.image import pip_values


@pytest.mark.parametrize(
    ("value", "fine"),
    [
        ("https://pypi.example.org/simple https://h/whl/cpu", True),
        ("https://me:hushhush@h/simple", False),
        ("https://a/simple https://hushhush@h/simple", False),
        ("https://h/simple?token=hushhush", False),
    ],
)
def test_an_index_with_a_login_is_refused_without_showing_it(
    value: str, fine: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", value)
    if fine:
        assert pip_values("docker")["PIP_EXTRA_INDEX_URL"] == value
        return
    with pytest.raises(SystemExit, match=r"PIP_EXTRA_INDEX_URL holds .*--pip-conf FILE") as caught:
        pip_values("docker")
    assert "hushhush" not in str(caught.value)
