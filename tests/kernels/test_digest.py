"""What was compiled or tuned is void once any file changes that its kernel is made from."""

import pytest

from tritonstdp.kernels import digest


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name in ("shared/loops.py", "mine/__init__.py", "mine/cpu.py", "mine/events.py", "alone/cpu.py", "alone/b.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    monkeypatch.setattr(digest, "SHARED", tmp_path / "shared")
    return tmp_path


def digest_of(path):
    digest.digest_of.cache_clear()
    return digest.digest_of(str(path))


@pytest.mark.parametrize(
    ("kernel", "changed", "counts"),
    [
        ("mine/cpu.py", "mine/cpu.py", True),
        ("mine/cpu.py", "mine/events.py", True),
        ("mine/cpu.py", "shared/loops.py", True),
        ("mine/cpu.py", "alone/b.py", False),
        ("alone/cpu.py", "alone/cpu.py", True),
        ("alone/cpu.py", "alone/b.py", False),
    ],
)
def test_it_counts_which_files_a_kernel_is_made_from(folder, kernel, changed, counts):
    before = digest_of(folder / kernel)
    (folder / changed).write_text("other")
    assert (digest_of(folder / kernel) != before) == counts


def test_sources_that_are_not_there_are_no_empty_ones(folder):
    with pytest.raises(OSError):
        digest_of(folder / "mine" / "gone.py")
