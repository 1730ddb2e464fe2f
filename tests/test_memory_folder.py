from pathlib import Path

from tests.memory_folder import memory_folder


def test_it_goes_at_the_end_and_so_does_one_of_a_process_that_was_killed(tmp_path: Path) -> None:
    (tmp_path / "x-left").mkdir()
    (tmp_path / "other").mkdir()
    with memory_folder("x", tmp_path, room=0) as folder, memory_folder("x", tmp_path, room=0) as another:
        assert folder is not None
        assert another is not None
        assert sorted(tmp_path.iterdir()) == sorted([folder, another, tmp_path / "other"])
    assert list(tmp_path.iterdir()) == [tmp_path / "other"]


def test_without_room_there_is_none(tmp_path: Path) -> None:
    for memory, room in ((tmp_path, 1 << 60), (tmp_path / "absent", 0)):
        with memory_folder("x", memory, room) as folder:
            assert folder is None
    assert list(tmp_path.iterdir()) == []
