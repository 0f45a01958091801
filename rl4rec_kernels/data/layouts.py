"""The files of well-known data sets: their columns, and where they are in a folder.

Sources, read in 2026: the pages of Amazon Reviews 2014 (jmcauley.ucsd.edu/data/amazon/
index_2014.html), 2018 (nijianmo.github.io/amazon) and 2023 (amazon-reviews-2023.github.io, and
hyp1231/AmazonReviews2023, benchmark_scripts/); the READMEs of MovieLens (grouplens.org); Yelp's
documentation of its JSON; cseweb.ucsd.edu/~jmcauley/datasets.html for Steam;
RUCAIBox/RecSysDatasets, conversion_tools/src/extended_dataset.py, for the columns of all of these.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from rl4rec_kernels._utils.checks import shown
from rl4rec_kernels.data.text_tables import Table

_LATIN: dict[str, Any] = {"encoding": "latin-1", "quotes": False}
# Of u.item: flags of 19 genres after five other columns, in this order, from u.genre.
GENRES = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary",
    "Drama", "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi",
    "Thriller", "War", "Western",
)  # fmt: skip


@dataclass(frozen=True)
class Layout:
    """The columns of the interactions and items of a data set, and how their files are read."""

    user: str
    item: str
    time: str | None
    rating: str | None
    item_id: str
    options: Mapping[str, Any] = field(default_factory=dict)
    item_options: Mapping[str, Any] = field(default_factory=dict)


FolderLayout = Literal["lc-rec", "minionerec", "openp5", "p5", "recbole"]
LayoutName = Literal[
    "amazon-2014", "amazon-2014-ratings", "amazon-2018", "amazon-2018-ratings", "amazon-2023",
    "movielens", "movielens-100k", "movielens-1m", "steam", "yelp", FolderLayout,
]  # fmt: skip

LAYOUTS: dict[str, Layout] = {
    "amazon-2014": Layout("reviewerID", "asin", "unixReviewTime", "overall", "asin"),
    "amazon-2018": Layout("reviewerID", "asin", "unixReviewTime", "overall", "asin"),
    "amazon-2023": Layout("user_id", "parent_asin", "timestamp", "rating", "parent_asin"),
    # The files of ratings only have no header, and the two years have another order.
    "amazon-2014-ratings": Layout(
        "user_id", "item_id", "timestamp", "rating", "asin",
        {"columns": ("user_id", "item_id", "rating", "timestamp")},
    ),
    "amazon-2018-ratings": Layout(
        "user_id", "item_id", "timestamp", "rating", "asin",
        {"columns": ("item_id", "user_id", "rating", "timestamp")},
    ),
    "movielens": Layout("userId", "movieId", "timestamp", "rating", "movieId"),
    "movielens-1m": Layout(
        "user_id", "item_id", "timestamp", "rating", "item_id",
        {"columns": ("user_id", "item_id", "rating", "timestamp"), "separator": "::", **_LATIN},
        {"columns": ("item_id", "title", "genres"), "separator": "::", **_LATIN},
    ),
    "movielens-100k": Layout(
        "user_id", "item_id", "timestamp", "rating", "item_id",
        {"columns": ("user_id", "item_id", "rating", "timestamp"), "separator": "\t", **_LATIN},
        {
            "columns": ("item_id", "title", "release_date", "video_date", "url", *GENRES),
            "separator": "|",
            **_LATIN,
        },
    ),
    "yelp": Layout("user_id", "business_id", "date", "stars", "business_id"),
    "steam": Layout("username", "product_id", "date", None, "id"),
    "recbole": Layout("user_id", "item_id", "timestamp", "rating", "item_id"),
}  # fmt: skip

FOLDERS: tuple[FolderLayout, ...] = get_args(FolderLayout)
"""Layouts of whole folders, which `rl4rec_kernels.data.folders` reads."""

# Other names of columns, in lower case, the first found is used.
NAMES = {
    "user": ("user_id", "userid", "user", "reviewerid", "username", "customer_id"),
    "item": (
        "item_id", "itemid", "item", "parent_asin", "asin", "business_id", "product_id",
        "productid", "movieid", "movie_id",
    ),
    "time": ("timestamp", "unixreviewtime", "time", "datetime", "date"),
    "rating": ("rating", "overall", "stars", "score"),
    "item_id": (
        "item_id", "itemid", "item", "parent_asin", "asin", "business_id", "product_id",
        "productid", "movieid", "movie_id", "id",
    ),
}  # fmt: skip

ITEM_NAMES = {"title": ("app_name",), "brand": ("store",), "category": ("main_category",)}
"""Fields of items that take the place of one of ours where it is missing."""

ITEM_FIELDS = (
    "title", "movie_title", "name", "app_name", "brand", "store", "category", "categories",
    "genre", "genres", "class", "main_category", "release_year", "year", "description", "price",
)  # fmt: skip
"""The fields that are kept of items in files of objects, whose others are often large."""

_INTERACTIONS = re.compile(r"review|rating|interaction|^u\.data$", re.IGNORECASE)
_ITEMS = re.compile(r"^meta|movies|business|games|^u\.item$|^items?[._]|product", re.IGNORECASE)
_ENDINGS = (".csv", ".tsv", ".dat", ".json", ".jsonl", ".parquet", ".data", ".item")


def find_layout(name: str | None) -> Layout | None:
    """Return a layout by name, or raise ValueError."""
    if name is None:
        return None
    if name not in LAYOUTS:
        known = ", ".join(sorted({*LAYOUTS, *FOLDERS}))
        raise ValueError(f"layout must be one of {known}, got {shown(name)}")
    return LAYOUTS[name]


def layout_of(path: Path) -> Layout | None:
    """The layout of a file that has no header, by its name and its ending."""
    stem = path.name.removesuffix(".gz")
    if stem in ("u.data", "u.item"):
        return LAYOUTS["movielens-100k"]
    if stem in ("ratings.dat", "movies.dat"):
        return LAYOUTS["movielens-1m"]
    return None


def choose_column(
    role: str, given: str | None, table: Table, layout: Layout | None, *, required: bool
) -> str | None:
    """The column of a role: the given one, that of the layout, or one with a usual name.

    Raises
    ------
    TypeError, ValueError
        If there is none, or it does not exist; the message lists the columns that were found.
    """
    found = ", ".join(map(str, table.columns)) or "none"
    if given is not None:
        if not isinstance(given, str):
            raise TypeError(f"{role} must be the name of a column, got {shown(given)}")
        if given not in table.columns:
            raise ValueError(
                f"{role}={shown(given)} is not a column of {table.name}, whose columns are {found}"
            )
        return given
    if layout is not None and (column := getattr(layout, role)) in table.columns:
        return str(column)
    lower = {column.lower(): column for column in reversed(table.columns)}
    for name in NAMES[role]:
        if layout is None and name in lower:
            return lower[name]
    if not required:
        return None
    wanted = getattr(layout, role) if layout is not None else f"for the {role}"
    raise ValueError(
        f"{table.name} has no column {wanted}; its columns are {found}. Pass {role}= with one of "
        "them. If the first line is not a header, pass columns=, the names of all columns, or "
        "layout="
    )


def files_in(directory: Path) -> tuple[Path, Path | None]:
    """The file of interactions in a folder, and that of items, if there is one.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such file, or more than one; the message lists them.
    """
    files = [
        path
        for path in sorted(directory.iterdir())
        if path.is_file() and path.name.removesuffix(".gz").endswith(_ENDINGS)
    ]
    items = [path for path in files if _ITEMS.search(path.name) and not _is_named(path)]
    others = [path for path in files if path not in items]
    named = [path for path in others if _is_named(path)] or others
    if not named:
        raise FileNotFoundError(
            f"{directory} has no interactions; add sequential_data.txt (one user per line: "
            f"user item item …, in time order), RecBole's {directory.name}.inter, or a file of "
            "reviews or ratings such as ratings.csv, plain or as .gz"
        )
    return _only(directory, named, "interactions"), (
        _only(directory, items, "items") if items else None
    )


def _is_named(path: Path) -> bool:
    return bool(_INTERACTIONS.search(path.name)) and not path.name.startswith("meta")


def _only(directory: Path, paths: Sequence[Path], what: str) -> Path:
    if len(paths) > 1:
        names = ", ".join(path.name for path in paths)
        raise ValueError(
            f"{directory} has several files of {what} ({names}); pass the one to read to "
            "read_interactions, with items=, or keep one"
        )
    return paths[0]
