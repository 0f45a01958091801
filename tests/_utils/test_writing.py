"""Files that the library writes are there as a whole, or as they were."""

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from rl4rec_kernels._utils.writing import replacing


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_a_write_that_ends_early_leaves_the_old_file(tmp_path, error):
    path = tmp_path / "result.json"
    path.write_text("old")

    def write() -> None:
        with replacing(path) as part, open(part, "w") as file:
            file.write("ne")
            raise error

    with pytest.raises(error):
        write()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["result.json"]


def test_many_threads_write_one_file(tmp_path):
    """The file is always one of theirs, and its permissions are those of any new file."""
    path = tmp_path / "result.json"
    (tmp_path / "plain").touch()

    def write(letter: str) -> None:
        for _ in range(20):
            with replacing(path) as part, open(part, "w") as file:
                file.write(letter * 10_000)
            assert len(set(path.read_text())) == 1

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(write, "abcd"))
    assert path.stat().st_size == 10_000
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode
    after = tmp_path / "after"
    after.touch()
    assert after.stat().st_mode == path.stat().st_mode
