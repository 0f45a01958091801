"""The same small data set in the layouts of well-known data sets, as their pages describe them."""

import csv
import gzip
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

START = 1_500_000_000  # seconds
USERS = ("AX1", "AX2", "AX3", "AX4", "AX5")
ITEMS = {
    "B01": ('7" Mirror', "Acme", ["Beauty", "Tools"]),
    "B02": ("Soap, mild", "Acme", ["Beauty", "Bath"]),
    "B03": ("Brush", "Bristle & Co", ["Hair"]),
    "B04": ("Comb 100%", None, ["Hair"]),
    "B05": ("Café lotion", "Acme", ["Skin"]),
    "B06": ("Towel", None, ["Bath"]),
    "B07": ("Nobody bought this", None, ["Bath"]),
}
# User, item, rating, seconds after START; neither users nor times are in order.
EVENTS = [
    ("AX2", "B03", 4, 50), ("AX1", "B02", 5, 20), ("AX1", "B01", 5, 10), ("AX2", "B01", 2, 15),
    ("AX3", "B01", 5, 12), ("AX1", "B05", 3, 40), ("AX1", "B04", 4, 30), ("AX3", "B02", 4, 22),
    ("AX2", "B02", 5, 60), ("AX2", "B05", 5, 70), ("AX3", "B06", 1, 33), ("AX4", "B01", 5, 11),
    ("AX4", "B02", 5, 21), ("AX4", "B03", 5, 31), ("AX4", "B04", 5, 41), ("AX3", "B03", 5, 44),
    ("AX5", "B02", 4, 90), ("AX4", "B06", 2, 51), ("AX5", "B06", 4, 99),
]  # fmt: skip
SEQUENCES = {
    user: [item for _, item, _ in sorted((t, i, u) for u, i, _, t in EVENTS if u == user)]
    for user in USERS
}


def write_lines(path: Path, rows: Sequence[Any], *, python: bool = False) -> None:
    text = "".join((repr(row) if python else json.dumps(row)) + "\n" for row in rows)
    data = text.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def write_csv(path: Path, rows: Sequence[Sequence[Any]], encoding: str = "utf-8") -> None:
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(rows)
    data = file.getvalue().encode(encoding)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def amazon_2014(root: Path) -> None:
    write_lines(
        root / "reviews_Beauty_5.json.gz",
        [
            {"reviewerID": u, "asin": i, "helpful": [0, 0], "reviewText": "ok", "overall": float(r),
             "unixReviewTime": START + t, "reviewTime": "07 14, 2017"}
            for u, i, r, t in EVENTS
        ],
    )  # fmt: skip
    write_lines(
        root / "meta_Beauty.json.gz",
        [
            {
                "asin": i,
                "title": t,
                "brand": b,
                "categories": [c],
                "imUrl": "http://x",
                "price": 1.5,
            }
            for i, (t, b, c) in ITEMS.items()
        ],
        python=True,
    )


def amazon_2018(root: Path) -> None:
    write_lines(
        root / "Beauty_5.json.gz",
        [
            {"overall": float(r), "verified": True, "reviewerID": u, "asin": i,
             "unixReviewTime": START + t}
            for u, i, r, t in EVENTS
        ],
    )  # fmt: skip
    rows = [
        {"category": c, "title": t, "brand": b or "", "asin": i, "also_buy": []}
        for i, (t, b, c) in ITEMS.items()
    ]
    write_lines(root / "meta_Beauty.json.gz", [*rows, rows[0]])  # some items are there twice


def amazon_2023(root: Path) -> None:
    write_lines(
        root / "All_Beauty.jsonl.gz",
        [
            {"rating": float(r), "title": "A review", "text": "ok", "images": [], "asin": i + "X",
             "parent_asin": i, "user_id": u, "timestamp": (START + t) * 1000}
            for u, i, r, t in EVENTS
        ],
    )  # fmt: skip
    write_lines(
        root / "meta_All_Beauty.jsonl.gz",
        [
            {"main_category": "All Beauty", "title": t, "store": b, "categories": c,
             "parent_asin": i, "details": {"a": "b"}}
            for i, (t, b, c) in ITEMS.items()
        ],
    )  # fmt: skip


def amazon_ratings(root: Path) -> None:
    write_csv(root / "ratings_Beauty.csv", [(u, i, f"{r}.0", START + t) for u, i, r, t in EVENTS])
    write_csv(root / "Beauty.csv", [(i, u, f"{r}.0", START + t) for u, i, r, t in EVENTS])


def movielens(root: Path) -> None:
    rows = [(u[2:], i[2:], r, START + t) for u, i, r, t in EVENTS]
    films = [(i[2:], t, "|".join(c)) for i, (t, _, c) in ITEMS.items()]
    write_csv(root / "ratings.csv", [("userId", "movieId", "rating", "timestamp"), *rows])
    write_csv(root / "movies.csv", [("movieId", "title", "genres"), *films])
    write_csv(root / "tags.csv", [("userId", "movieId", "tag", "timestamp")])


def movielens_1m(root: Path) -> None:
    rows = [f"{u[2:]}::{i[2:]}::{r}::{START + t}\n" for u, i, r, t in EVENTS]
    films = [f"{i[2:]}::{t}::{'|'.join(c)}\n" for i, (t, _, c) in ITEMS.items()]
    (root / "ratings.dat").write_text("".join(rows), "latin-1")
    (root / "movies.dat").write_text("".join(films), "latin-1")


def movielens_100k(root: Path) -> None:
    rows = [f"{u[2:]}\t{i[2:]}\t{r}\t{START + t}\n" for u, i, r, t in EVENTS]
    flags = ["1" if n in (1, 5) else "0" for n in range(19)]
    films = [
        "|".join([i[2:], t, "01-Jan-1995", "", "http://x", *flags]) + "\n"
        for i, (t, *_) in ITEMS.items()
    ]
    (root / "u.data").write_text("".join(rows), "latin-1")
    (root / "u.item").write_text("".join(films), "latin-1")


def yelp(root: Path) -> None:
    write_lines(
        root / "yelp_academic_dataset_review.json",
        [
            {"review_id": "r", "user_id": u, "business_id": i, "stars": float(r), "text": "ok",
             "date": f"2018-07-07 22:{t // 60:02}:{t % 60:02}"}
            for u, i, r, t in EVENTS
        ],
    )  # fmt: skip
    write_lines(
        root / "yelp_academic_dataset_business.json",
        [
            {"business_id": i, "name": t, "city": "X", "categories": ", ".join(c), "hours": None}
            for i, (t, _, c) in ITEMS.items()
        ],
    )
    write_lines(root / "yelp_academic_dataset_user.json", [{"user_id": "AX1"}])


def steam(root: Path) -> None:
    write_lines(
        root / "steam_reviews.json.gz",
        [
            {"username": u, "product_id": i, "hours": 1.5, "date": f"2018-01-{1 + t // 4:02}"}
            for u, i, _, t in EVENTS
        ],
        python=True,
    )
    games = [{"app_name": t, "genres": c, "id": i, "tags": []} for i, (t, _, c) in ITEMS.items()]
    write_lines(root / "steam_games.json.gz", [*games, {"app_name": "no id"}], python=True)


def recbole(root: Path) -> None:
    inter = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    item = "item_id:token\ttitle:token_seq\tbrand:token\tcategory:token_seq\n"
    inter += "".join(f"{u}\t{i}\t{r}\t{START + t}\n" for u, i, r, t in EVENTS)
    for i, (t, b, c) in ITEMS.items():
        title = '"7"" Mirror"' if i == "B01" else t
        item += f"{i}\t{title}\t{b or ''}\t{' '.join(c)}\n"
    (root / f"{root.name}.inter").write_text(inter, "utf-8")
    (root / f"{root.name}.item").write_text(item, "utf-8")


def openp5(root: Path) -> None:
    rows = [" ".join([user, *items]) for user, items in SEQUENCES.items()]
    (root / "user_sequence.txt").write_text("\n".join(rows) + "\n", "utf-8")
    texts = [
        f"{i} title: {t}; brand: {b or ''}; categories: {', '.join(c)}; price: 1"
        for i, (t, b, c) in ITEMS.items()
    ]
    (root / "item_plain_text.txt").write_text("\n".join(texts) + "\n", "utf-8")


def p5(root: Path) -> None:
    ids = {item: n for n, item in enumerate(ITEMS, 1)}
    rows = [
        " ".join(map(str, [n, *(ids[i] for i in items)]))
        for n, items in enumerate(SEQUENCES.values(), 1)
    ]
    (root / "sequential_data.txt").write_text("\n".join(rows) + "\n", "utf-8")
    (root / "datamaps.json").write_text(
        json.dumps({"item2id": {i: str(n) for i, n in ids.items()}}), "utf-8"
    )
    write_lines(
        root / "meta.json.gz",
        [
            {"asin": i, "title": t, "brand": b, "categories": [c]}
            for i, (t, b, c) in [*ITEMS.items(), ("B99", ("other", "x", ["y"]))]
        ],
        python=True,
    )


def lc_rec(root: Path) -> None:
    """Ids from 0, as the scripts of LC-Rec make them."""
    ids = {item: n for n, item in enumerate(ITEMS)}
    inter = {str(n): [ids[i] for i in items] for n, items in enumerate(SEQUENCES.values())}
    item = {
        str(ids[i]): {"title": t, "brand": b or "", "categories": ",".join(c), "description": "d"}
        for i, (t, b, c) in ITEMS.items()
    }
    (root / "Beauty.inter.json").write_text(json.dumps(inter), "utf-8")
    (root / "Beauty.item.json").write_text(json.dumps(item), "utf-8")
    (root / "Beauty.index.json").write_text("{}", "utf-8")


def minionerec(root: Path) -> None:
    ids = {item: n for n, item in enumerate(ITEMS)}
    head = ["user_id", "history_item_title", "item_title", "history_item_id", "item_id"]
    name = "Beauty_5_2016-10-2018-11.csv"
    for split, back in (("train", 3), ("train", 2), ("valid", 1), ("test", 0)):
        rows = []
        for user, items in SEQUENCES.items():
            sequence = items[: len(items) - back]
            if len(sequence) > 1:
                history = sequence[-4:-1]  # the latest three
                titles = [ITEMS[i][0] for i in history]
                target = sequence[-1]
                rows.append([f"A{user}", titles, ITEMS[target][0], [ids[i] for i in history],
                             ids[target]])  # fmt: skip
        folder = root / split
        folder.mkdir(exist_ok=True)
        old = list(csv.reader((folder / name).open())) if (folder / name).exists() else [head]
        write_csv(folder / name, [*old, *rows])
    (root / "info").mkdir()
    lines = [f"<a_{n}><b_0>\t{ITEMS[i][0]}\t{n}\n" for i, n in ids.items()]
    (root / "info" / name.replace(".csv", ".txt")).write_text("".join(lines), "utf-8")


LAYOUTS = {
    "amazon-2014": amazon_2014,
    "amazon-2018": amazon_2018,
    "amazon-2023": amazon_2023,
    "movielens": movielens,
    "movielens-1m": movielens_1m,
    "movielens-100k": movielens_100k,
    "yelp": yelp,
    "steam": steam,
    "recbole": recbole,
    "openp5": openp5,
    "p5": p5,
    "lc-rec": lc_rec,
    "minionerec": minionerec,
}


def write_layout(root: Path, layout: str) -> Path:
    """Write a data set of this layout into ``root/<layout>``, and return that folder."""
    folder = root / layout
    folder.mkdir()
    LAYOUTS[layout](folder)
    return folder
