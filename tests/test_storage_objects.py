"""Objects behave alike wherever they are: every store passes the same tests."""

import errno
import os
import subprocess
import sys
import threading
import uuid
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import fsspec
import pytest

from storage import durable
from storage.errors import BadInput, Conflict, Unreachable
from storage.listing import list_source
from storage.metering import Meter
from storage.objects import ObjectStore
from storage.transient import ATTEMPTS, FIRST_ATTEMPTS, is_transient, persist, shown


@pytest.fixture(scope="module")
def s3_options():
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    options = {
        "key": "test",
        "secret": "test",
        "client_kwargs": {"endpoint_url": f"http://{host}:{port}", "region_name": "us-east-1"},
    }
    fsspec.filesystem("s3", **options).call_s3("create_bucket", Bucket="bucket")
    yield options
    server.stop()


@pytest.fixture(params=["local", "memory", "s3"])
def store(request, tmp_path):
    if request.param == "local":
        return ObjectStore.open(str(tmp_path / "root"))
    if request.param == "memory":
        return ObjectStore.open(f"memory://{uuid.uuid4().hex}/root")
    options = request.getfixturevalue("s3_options")
    return ObjectStore.open(f"s3://bucket/{uuid.uuid4().hex}/root", options)


def test_what_is_written_is_read_back_and_may_be_replaced(store):
    store.write("a/b.bin", b"first")
    store.write("a/b.bin", b"second")
    assert store.read("a/b.bin") == b"second"
    assert store.size("a/b.bin") == 6


def test_a_range_is_exactly_those_bytes_and_is_cut_where_the_object_ends(store):
    store.write("x", bytes(range(100)))
    assert store.read_range("x", 10, 5) == bytes(range(10, 15))
    assert store.read_range("x", 95, 50) == bytes(range(95, 100))
    assert store.read_range("x", 3, 0) == b""


def test_a_missing_object_is_a_file_not_found_error(store):
    assert not store.exists("nothing")
    for ask in (store.read, store.size):
        with pytest.raises(FileNotFoundError):
            ask("nothing")


def test_create_refuses_what_exists_and_leaves_it_alone(store):
    store.create("snapshots/1.json", b"winner")
    with pytest.raises(Conflict, match=r"snapshots/1\.json"):
        store.create("snapshots/1.json", b"loser")
    with pytest.raises(Conflict):
        store.create("snapshots/1.json", b"winner")
    assert store.read("snapshots/1.json") == b"winner"


def test_of_many_concurrent_creates_exactly_one_wins(store):
    results, barrier = [], threading.Barrier(8)

    def contend(i):
        barrier.wait()
        try:
            store.create("prize", f"writer {i}".encode())
        except Conflict:
            results.append(None)
        else:
            results.append(i)

    threads = [threading.Thread(target=contend, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winners = [i for i in results if i is not None]
    assert len(results) == 8 and len(winners) == 1
    assert store.read("prize") == f"writer {winners[0]}".encode()


def test_listing_is_sorted_recursive_by_prefix_and_empty_for_nothing(store):
    assert store.list() == [] and store.list("shards/") == []
    for path in ("shards/b/2", "shards/a/1", "shardsX", "FORMAT"):
        store.write(path, path.encode())
    assert [i.path for i in store.list()] == ["FORMAT", "shards/a/1", "shards/b/2", "shardsX"]
    assert [(i.path, i.n_bytes) for i in store.list("shards/")] == [("shards/a/1", 10), ("shards/b/2", 10)]
    assert [i.path for i in store.list("shards")] == ["shards/a/1", "shards/b/2", "shardsX"]


def test_a_listing_sees_what_another_store_wrote_a_moment_ago(store):
    other = ObjectStore.open(store.uri, store._storage_options)
    assert other.list() == [] and not other.exists("new")
    store.write("new", b"1")
    assert other.exists("new") and [i.path for i in other.list()] == ["new"]


def test_a_deleted_object_is_gone_and_deleting_it_again_is_no_error(store):
    store.write("x", b"1")
    store.delete("x")
    store.delete("x")
    assert not store.exists("x")


def test_a_local_file_is_put_whole_and_counted(store, tmp_path):
    (tmp_path / "big").write_bytes(b"z" * 300_000)
    before = store.meter.snapshot()
    store.put_file("copy", str(tmp_path / "big"))
    assert (store.meter.snapshot() - before).bytes_written == 300_000
    assert store.read("copy") == b"z" * 300_000


def test_the_meter_counts_every_byte_that_moved(store):
    store.write("x", b"12345")
    store.create("y", b"123")
    before = store.meter.snapshot()
    assert before.bytes_written == 8
    store.read("x")
    store.read_range("x", 1, 2)
    moved = store.meter.minus(before)
    assert moved.bytes_read == 7 and moved.n_requests == 2


ESCAPES = ["", "/etc/passwd", "../x", "a/../../x", "a//b", "a\\b", "./x", "a/", "file:x", "a\0b"]


@pytest.mark.parametrize("path", ESCAPES)
def test_paths_that_leave_the_root_are_refused(store, path):
    for act in (store.read, store.exists, store.delete, lambda p: store.write(p, b""), lambda p: store.create(p, b"")):
        with pytest.raises(BadInput, match="plain relative path"):
            act(path)


def test_a_meter_is_exact_under_many_threads():
    meter = Meter()

    def work():
        for _ in range(1000):
            meter.record_read(3)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert meter.bytes_read == 24_000 and meter.n_requests == 8_000


# -- local durability -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["write", "create"])
def test_a_writer_killed_before_naming_its_file_leaves_nothing_a_reader_sees(tmp_path, method):
    script = f"""
import os
from storage import durable
from storage.objects import ObjectStore
durable.os.replace = durable.os.link = lambda *a, **k: os._exit(9)
ObjectStore.open({str(tmp_path)!r}).{method}('a/x', b'half')
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 9
    assert len(os.listdir(tmp_path / "a")) == 1
    store = ObjectStore.open(str(tmp_path))
    assert store.list() == [] and not store.exists("a/x")
    store.create("a/x", b"whole")
    assert os.listdir(tmp_path / "a") == ["x"], "the leftover of the dead process is swept by the next writer"


def test_sweeping_spares_the_temporaries_of_the_living(tmp_path):
    store = ObjectStore.open(str(tmp_path))
    alive = tmp_path / f".tmp-{durable._host()}-{os.getpid()}-abc"
    alive.write_bytes(b"")
    assert store.sweep() == 0 and alive.exists()


def test_a_failed_write_leaves_the_old_object_and_no_temporary(tmp_path, monkeypatch):
    store = ObjectStore.open(str(tmp_path))
    store.write("x", b"old")

    def full_disk(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(durable.os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        store.write("x", b"new")
    assert store.read("x") == b"old" and os.listdir(tmp_path) == ["x"]


def test_create_is_exclusive_on_a_filesystem_without_hard_links(tmp_path, monkeypatch):
    def no_links(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(durable.os, "link", no_links)
    store = ObjectStore.open(str(tmp_path))
    store.create("x", b"first")
    with pytest.raises(Conflict):
        store.create("x", b"second")
    assert store.read("x") == b"first" and os.listdir(tmp_path) == ["x"]


# -- servers that fail ------------------------------------------------------------------------------------------------


def test_a_create_whose_answer_was_lost_is_a_success_not_a_conflict(s3_options, monkeypatch):
    store = ObjectStore.open(f"s3://bucket/{uuid.uuid4().hex}", s3_options)
    client = store._single_attempt_filesystem()
    put = client.pipe_file

    def lossy(path, data, **kwargs):
        put(path, data, **kwargs)
        raise TimeoutError("the answer never came")

    monkeypatch.setattr(client, "pipe_file", lossy)
    monkeypatch.setattr(store, "_single_attempt_filesystem", lambda: client)
    store.create("snapshot", b"mine")
    assert store.read("snapshot") == b"mine"


def test_a_create_that_lost_the_race_unseen_is_a_conflict(s3_options, monkeypatch):
    store = ObjectStore.open(f"s3://bucket/{uuid.uuid4().hex}", s3_options)
    store.write("snapshot", b"theirs")
    answers = iter([False, True])  # not there when looked at first, there once the server has refused
    monkeypatch.setattr(store, "exists", lambda path: next(answers))
    with pytest.raises(Conflict):
        store.create("snapshot", b"mine")
    assert store.read("snapshot") == b"theirs"


def test_a_passing_failure_is_tried_again_and_a_lasting_one_is_not():
    calls = []

    def flaky():
        calls.append(1)
        if len(calls) < 3:
            raise ConnectionResetError("reset")
        return "data"

    assert persist(flaky, "x", sleep=lambda _: None) == "data"

    def missing():
        calls.append(1)
        raise FileNotFoundError("x")

    calls.clear()
    with pytest.raises(FileNotFoundError):
        persist(missing, "x", sleep=lambda _: None)
    assert len(calls) == 1
    assert not is_transient(PermissionError("no")) and not is_transient(OSError(28, "disk full"))


def test_a_server_that_is_not_there_is_unreachable_in_one_line_and_may_be_there_later():
    options = {
        "key": "a",
        "secret": "b",
        "client_kwargs": {"endpoint_url": "http://127.0.0.1:1", "region_name": "us-east-1"},
        "config_kwargs": {"retries": {"total_max_attempts": 1}},
    }
    store = ObjectStore.open("s3://bucket/x", options)
    assert options["config_kwargs"] == {"retries": {"total_max_attempts": 1}}
    with pytest.raises(Unreachable, match=r"s3://bucket/x/y: .*127\.0\.0\.1:1.*AWS_ENDPOINT_URL") as caught:
        store.read("y")
    assert "\n" not in str(caught.value) and is_transient(caught.value)


def test_a_store_that_has_answered_is_given_more_time_than_one_that_never_did(monkeypatch):
    calls = []
    monkeypatch.setattr("storage.transient.FIRST_DELAY_S", 0.0)
    store = ObjectStore.open("memory://patience")

    def failing(path, **_):
        calls.append(path)
        raise ConnectionRefusedError("nobody")

    monkeypatch.setattr(store.fs, "cat_file", failing)
    with pytest.raises(Unreachable):
        store.read("a")
    assert len(calls) == FIRST_ATTEMPTS
    store.exists("a")
    calls.clear()
    with pytest.raises(Unreachable):
        store.read("a")
    assert len(calls) == ATTEMPTS


def test_an_unknown_scheme_is_bad_input():
    with pytest.raises(BadInput, match="no filesystem"):
        ObjectStore.open("nonsense://x/y")


@pytest.mark.parametrize(
    ("uri", "printed"),
    [
        ("s3://bucket/a", "s3://bucket/a"),
        ("ftp://user:secret@host:21/a", "ftp://host:21/a"),
        ("https://host/a?token=secret", "https://host/a"),
        ("/local/path@with?signs", "/local/path@with?signs"),
    ],
)
def test_credentials_are_never_printed(uri, printed):
    assert shown(uri) == printed


def test_a_server_that_answers_503_throughout_does_not_answer(monkeypatch):
    monkeypatch.setattr("storage.transient.FIRST_DELAY_S", 0.0)
    store = ObjectStore.open("memory://overloaded")

    def overloaded(path, **_):
        raise OSError(errno.EBUSY, "SlowDown")  # as s3fs says it

    monkeypatch.setattr(store.fs, "cat_file", overloaded)
    with pytest.raises(Unreachable, match=r"memory://overloaded/a: the storage does not answer .*SlowDown"):
        store.read("a")


def test_http_that_refuses_the_connection_is_no_missing_file():
    pytest.importorskip("aiohttp")
    with pytest.raises(Unreachable, match=r"http://127\.0\.0\.1:1/a/b: the storage does not answer"):
        ObjectStore.open("http://127.0.0.1:1/a").info("b")
    with pytest.raises(Unreachable, match=r"http://127\.0\.0\.1:1/one\.parquet: the storage does not answer"):
        list_source("http://127.0.0.1:1/one.parquet")


class Silent(SimpleHTTPRequestHandler):
    """Files and listings of a folder, without a log; it knows no ranges."""

    def log_message(self, *_):
        pass


def test_plain_http_tells_sizes_and_ranges(tmp_path):
    pytest.importorskip("aiohttp")
    (tmp_path / "snapshots").mkdir()
    (tmp_path / "snapshots" / "0000000001.json").write_bytes(bytes(range(100)))
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Silent, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        store = ObjectStore.open(f"http://127.0.0.1:{server.server_port}")
        assert [(info.path, info.n_bytes) for info in store.list("snapshots/")] == [("snapshots/0000000001.json", 100)]
        assert store.read_range("snapshots/0000000001.json", 40, 5) == bytes(range(40, 45))
    finally:
        server.shutdown()
        server.server_close()
