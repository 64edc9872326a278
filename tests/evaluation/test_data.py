from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from metaeol_udf.errors import ConfigError
from metaeol_udf.evaluation import StsTask, TransferTask, load_tasks
from metaeol_udf.evaluation.data import read_pairs

SECRET = "a secret text"
STS_HEAD = "subset\tsentence1\tsentence2\tscore\n"
TRANSFER_HEAD = "split\tlabel\ttext\n"
STS = STS_HEAD + 'news\tHe said "no.\tShe said \\t yes\t2.5\nforum\tone\ttwo\t0\n'
TRANSFER = TRANSFER_HEAD + "train\tA\tone\ntrain\tB\ttwo\ntest\tA\tthree\n"


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


def test_every_file_is_a_task_named_after_it(tmp_path: Path) -> None:
    write(tmp_path, "sts/pairs.tsv.gz", STS)
    write(tmp_path, "sts/more.tsv", STS)
    write(tmp_path, "sts/notes.txt", "no task")
    write(tmp_path, "transfer/topic.tsv", TRANSFER)
    tasks = load_tasks(tmp_path)
    assert [(task.name, type(task)) for task in tasks] == [("more", StsTask), ("pairs", StsTask), ("topic", TransferTask)]


def test_fields_are_taken_as_they_stand(tmp_path: Path) -> None:
    write(tmp_path, "sts/pairs.tsv.gz", STS)
    write(tmp_path, "transfer/topic.tsv", TRANSFER)
    pairs, topic = load_tasks(tmp_path)
    assert isinstance(pairs, StsTask)
    assert isinstance(topic, TransferTask)
    assert (pairs.subsets, pairs.sentences1, pairs.sentences2) == (["news", "forum"], ['He said "no.', "one"], ["She said \\t yes", "two"])
    assert pairs.gold.tolist() == [2.5, 0.0]
    assert pairs.texts == ['He said "no.', "one", "She said \\t yes", "two"]
    assert (topic.splits, topic.labels, topic.texts) == (["train", "train", "test"], ["A", "B", "A"], ["one", "two", "three"])


def test_columns_may_stand_in_any_order_with_others_between(tmp_path: Path) -> None:
    write(tmp_path, "sts/pairs.tsv", "score\tid\tsentence2\tsentence1\tsubset\n4\t7\tb\ta\ts\n3\t8\td\tc\ts\n")
    (task,) = load_tasks(tmp_path)
    assert isinstance(task, StsTask)
    assert (task.sentences1, task.sentences2, task.gold.tolist()) == (["a", "c"], ["b", "d"], [4.0, 3.0])


def test_lines_may_end_as_on_windows(tmp_path: Path) -> None:
    write(tmp_path, "transfer/topic.tsv", TRANSFER.replace("\n", "\r\n"))
    (task,) = load_tasks(tmp_path)
    assert isinstance(task, TransferTask)
    assert task.texts == ["one", "two", "three"]


def test_only_named_tasks_are_read_and_nested_ones_only_by_name(tmp_path: Path) -> None:
    for name in ("sts/a.tsv", "sts/b.tsv", "sts/other/a.tsv"):
        write(tmp_path, name, STS)
    assert [task.name for task in load_tasks(tmp_path)] == ["a", "b"]
    assert [task.name for task in load_tasks(tmp_path, ["other/a", "b"])] == ["b", "other/a"]
    with pytest.raises(ConfigError, match=r"no task 'bb' in .*did you mean 'b'"):
        load_tasks(tmp_path, ["bb"])


def test_a_limit_draws_rows_at_random_in_their_order_and_always_the_same(tmp_path: Path) -> None:
    rows = "".join(f"s\tfirst {i}\tsecond {i}\t{i}\n" for i in range(100))
    write(tmp_path, "sts/pairs.tsv", STS_HEAD + rows)
    (task,) = load_tasks(tmp_path, limit=20)
    assert isinstance(task, StsTask)
    drawn = task.gold.tolist()
    assert drawn == sorted(drawn)
    assert max(drawn) > 40
    assert task.sentences1 == [f"first {i:.0f}" for i in drawn]
    assert task.sentences2 == [f"second {i:.0f}" for i in drawn]
    (again,), (other,), (whole,) = (load_tasks(tmp_path, limit=n, seed=seed) for n, seed in ((20, 0), (20, 1), (500, 0)))
    assert [t.texts == task.texts for t in (again, other)] == [True, False]
    assert len(whole.texts) == 200


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("sts/x.tsv", "subset\tsentence1\tscore\n", "line 1: the header must name .*look at sentence2"),
        ("sts/x.tsv", STS_HEAD + f"s\t{SECRET}\tb\t1\ns\t{SECRET}\t2\n", "line 3: a row must have 4 fields, found 3"),
        ("sts/x.tsv", STS_HEAD + f"s\t{SECRET}\tb\thigh\n", "line 2: score must be a number"),
        ("sts/x.tsv", STS_HEAD + f"s\t{SECRET}\tb\tnan\n", "line 2: score must be a number"),
        ("sts/x.tsv", STS_HEAD + f"s\t{SECRET}\t \t1\n", "line 2: sentence1 and sentence2 must not be blank"),
        ("sts/x.tsv", STS_HEAD, "line 1: at least two rows must follow the header"),
        ("sts/x.tsv", f"s\t{SECRET}\tb\t1\n", "line 1: the header must name"),
        ("sts/x.tsv", "", "line 1: the header must name"),
        ("transfer/x.tsv", TRANSFER_HEAD + f"dev\tA\t{SECRET}\n", "line 2: split must be all, train or test"),
        ("transfer/x.tsv", TRANSFER_HEAD + f"all\t\t{SECRET}\n", "line 2: label must not be empty"),
        ("transfer/x.tsv", TRANSFER_HEAD + "all\tA\t\n", "line 2: text must not be blank"),
        ("transfer/x.tsv", TRANSFER_HEAD + f"all\tA\t{SECRET}\ntest\tA\tb\n", "split must be all in every row, or train in some"),
        ("transfer/x.tsv", TRANSFER_HEAD + f"train\tA\t{SECRET}\ntrain\tA\tb\n", "split must be all in every row, or train in some"),
        ("sts/x.tsv", STS_HEAD.encode() + b"s\t\xff\xfe\tb\t1\n", "must be UTF-8"),
    ],
)
def test_a_file_that_breaks_the_form_is_refused_by_line_and_rule(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    write(tmp_path, name, content)
    with pytest.raises(ConfigError, match=f"x.tsv.*{message}") as caught:
        load_tasks(tmp_path)
    assert SECRET not in str(caught.value)


def test_pairs_of_a_users_own_are_read_as_they_stand(tmp_path: Path) -> None:
    path = write(tmp_path, "pairs.tsv", 'id\tsentence1\tsentence2\tscore\n1\tsays "a\tb\t4.5\n2\tc\td\t0\n')
    pairs = read_pairs(path)
    assert (pairs.sentences1, pairs.sentences2, pairs.gold.tolist()) == (['says "a', "c"], ["b", "d"], [4.5, 0.0])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (f"{SECRET}\tb\tscore\n", "line 1: the header must name sentence1, sentence2, score once each"),
        (f"sentence1\tsentence2\tscore\n{SECRET}\tb\t1\n", "line 2: at least two rows"),
        (f"sentence1\tsentence2\tscore\n{SECRET}\tb\t1\n{SECRET}\tc\t1.0\n", "all pairs have the same score"),
    ],
)
def test_pairs_that_cannot_be_ranked_are_refused(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"pairs.tsv.*{message}") as caught:
        read_pairs(write(tmp_path, "pairs.tsv", content))
    assert SECRET not in str(caught.value)
    with pytest.raises(ConfigError, match=r"cannot read .*none\.tsv"):
        read_pairs(tmp_path / "none.tsv")


def test_a_damaged_archive_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "sts/x.tsv.gz", STS)
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(ConfigError, match=r"cannot read .*x.tsv.gz"):
        load_tasks(tmp_path)
    path.write_bytes(b"no archive")
    with pytest.raises(ConfigError, match=r"cannot read .*x.tsv.gz"):
        load_tasks(tmp_path)


def test_a_folder_without_tasks_and_a_name_that_is_there_twice_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no tasks in .*it must hold sts/NAME.tsv.gz"):
        load_tasks(tmp_path / "nowhere")
    write(tmp_path, "sts/x.tsv", STS)
    write(tmp_path, "transfer/x.tsv.gz", TRANSFER)
    with pytest.raises(ConfigError, match="task 'x' is there twice"):
        load_tasks(tmp_path)


def test_published_sets_have_their_published_sizes() -> None:
    folder = Path(__file__).resolve().parents[3] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the evaluation data is not beside this checkout (../shared/data)")
    pairs = {task.name: len(task.gold) for task in load_tasks(folder) if isinstance(task, StsTask)}
    assert pairs == {"sickr": 5000, "sts12": 3108, "sts14": 3750, "stsb_dev": 1500, "stsb_train": 3779}
    (trec,) = load_tasks(folder, ["trec"])
    assert isinstance(trec, TransferTask)
    assert (trec.splits.count("train"), trec.splits.count("test"), len(set(trec.labels))) == (5452, 500, 6)
