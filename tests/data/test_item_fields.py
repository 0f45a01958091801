"""The names of items' fields."""

from rl4rec_kernels.data import load_item_metadata
from tests.data.cases import write_tiny


def test_fields_get_one_name(tmp_path):
    items = {
        "1": {"name": "A", "categories": [["Beauty", "Hair"], ["Beauty", "Oil"]], "year": 1999},
        "2": {"movie_title": "B", "genres": "Drama", "release_year": "19xx", "title": "  "},
        "3": {"title": "C", "name": "kept", "genre": float("nan"), "genres": ["x"], "class": "y"},
    }
    write_tiny(tmp_path, items=items)
    assert load_item_metadata("tiny", tmp_path) == {
        1: {"title": "A", "category": "Beauty, Hair, Oil", "release_year": 1999},
        2: {"title": "B", "category": "Drama"},
        3: {"title": "C", "name": "kept", "category": "x", "class": "y"},
    }
