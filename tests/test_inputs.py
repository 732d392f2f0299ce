"""Several files that are read as one: each row has its own id, whatever its file is called, and a file without rows is one."""

import pytest

from extractor.batch import Input, _places, files_of
from extractor.errors import InputError
from extractor.io import Columns

TITLES = "title,category\n" + "".join(f"Velmora Loafer {n},Shoes\n" for n in range(3))


def test_rows_without_ids_of_files_with_one_name_are_all_offers(tmp_path):
    for place in ("feed/mon/offers.csv", "feed/tue/offers.csv", "feed/tue/more.csv"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_text(TITLES)
    offers = Input(files_of([f"{tmp_path}/feed/*/*.csv"]), Columns())
    assert [offer.id for offer in offers] == [
        f"{place}:line-{n}" for place in ("mon/offers.csv", "more.csv", "tue/offers.csv") for n in (2, 3, 4)
    ]


def test_a_file_with_a_header_alone_stops_nobody(tmp_path):
    for name in ("part-0.csv", "part-1.csv", "part-2.csv"):
        (tmp_path / name).write_text("title,category\n" if name == "part-1.csv" else TITLES)
    (tmp_path / "part-3.jsonl").write_text("\n")
    read = Input(files_of([str(tmp_path)]), Columns())
    assert len(list(read)) == 6 and read.fraction == 1
    for name in ("part-0.csv", "part-2.csv"):
        (tmp_path / name).unlink()
    with pytest.raises(InputError, match=r"part-3.jsonl: there are no offers in it, nor in the others"):
        list(Input(files_of([str(tmp_path)]), Columns()))
    with pytest.raises(InputError, match=r"part-1.csv: there are no offers in it$"):
        list(Input([str(tmp_path / "part-1.csv")], Columns()))


@pytest.mark.parametrize(
    ("files", "places"),
    [
        ("/f/a.csv /f/b.csv /g/c.csv", "a.csv b.csv c.csv"),
        ("/f/a.csv /f/sub/a.csv /f/b.csv", "a.csv sub/a.csv b.csv"),
        ("/f/x/1/a.csv /f/y/1/a.csv", "x/1/a.csv y/1/a.csv"),
        ("s3://b/mon/a%2A.csv?region=eu s3://b/tue/a%2A.csv?region=eu", "mon/a*.csv tue/a*.csv"),
        ("s3://b/f/a.csv s3://c/f/a.csv", "b/f/a.csv c/f/a.csv"),
        ("s3://b/f//a.csv s3://b/f/a.csv", "/a.csv a.csv"),
        ("/f/a.csv s3://f/a.csv", "/f/a.csv s3://f/a.csv"),
    ],
)
def test_a_file_is_called_by_its_name_or_where_that_repeats_by_its_path(files, places):
    assert _places(files.split()) == [f"{place}:" for place in places.split()]
