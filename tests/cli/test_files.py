from pathlib import Path

import pytest

from gateway.cli.terminal.files import write


def test_a_file_keeps_its_mode(tmp_path: Path) -> None:
    file = tmp_path / "gateway.env"
    write(file, "A=1\n", 0o600)
    assert file.stat().st_mode & 0o777 == 0o600
    file.chmod(0o640)
    write(file, "A=2\n", 0o600)
    assert (file.stat().st_mode & 0o777, file.read_text()) == (0o640, "A=2\n")
    assert list(tmp_path.iterdir()) == [file]


def test_a_refused_file_is_not_written(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    write(file, "a: 1\n", 0o640)
    link = tmp_path / "link.yaml"
    link.symlink_to(file)

    def refuse(new: Path) -> None:
        assert (new.parent, new.read_text()) == (tmp_path, "a: 2\n")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        write(link, "a: 2\n", accept=refuse)
    assert file.read_text() == "a: 1\n"
    write(link, "a: 3\n")
    assert (file.read_text(), link.is_symlink()) == ("a: 3\n", True)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["gateway.yaml", "link.yaml"]
