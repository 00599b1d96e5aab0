from __future__ import annotations

import subprocess
import sys

import pytest

import k700_text


def test_the_public_names_are_there() -> None:
    for name in ("KineticsAVT", "Sample", "Batch", "collate"):
        assert getattr(k700_text, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = k700_text.nothing  # type: ignore[attr-defined]  # the point of the test


@pytest.mark.parametrize(
    "module",
    ["k700_text", "k700_text.cli.main", "k700_text.crawl.crawler", "k700_text.manifest.build", "k700_text.media.probe"],
)
def test_the_base_install_does_not_import_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit(any(name.split('.')[0] in ('torch', 'tokenizers') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_command_starts_without_its_heavy_parts() -> None:
    code = (
        "import sys, k700_text.cli.main\n"
        "heavy = {'torch', 'pandas', 'pyarrow', 'numpy', 'av', 'requests', 'yt_dlp'} & set(sys.modules)\n"
        "sys.exit(f'imported at start: {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_without_torch_the_loader_is_a_missing_extra_and_an_import_error() -> None:
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "try:\n    from k700_text import KineticsAVT\n"
        "except ImportError as error:\n    print(type(error).__name__, error)\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout.startswith("MissingExtraError k700_text.KineticsAVT needs torch")
    assert "pip install 'k700-text[data]'" in ended.stdout
