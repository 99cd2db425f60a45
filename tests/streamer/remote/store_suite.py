"""What every store of remote files must do; each inherits the whole suite."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

import pytest
from streamer_stores import LITTLE_PATIENCE, as_jsonl, read_all

from streamer.errors import SourceError
from streamer.sources import listing as listing_module
from streamer.sources.shelf import Shelf
from streamer.sources.spec import SourceSpec

TEXTS = [f"{number} {'x' * 400}" for number in range(100)]


class StoreSuite(ABC):
    """The contract of `RemoteStore`, for a store that can list a folder; a subclass fills one."""

    @abstractmethod
    def put(self, files: dict[str, bytes]) -> str:
        """Make these the only files of a folder of the store; its address."""

    def test_gives_what_the_disk_gives(
        self,
        files: dict[str, bytes],
        folder: Path,
        make_shelf: Callable[..., Shelf],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Parquet, JSON lines and text, compressed and not, in the order of their names."""
        monkeypatch.setattr(listing_module, "SLICE_BYTES", 5000)
        address = self.put(dict(reversed(files.items())))
        shelf = make_shelf()
        assert read_all(shelf, address) == read_all(shelf, str(folder))

    def test_other_files_are_not_read(self, make_shelf: Callable[..., Shelf]) -> None:
        address = self.put({"a.jsonl": as_jsonl(TEXTS[:2]), "README.md": b"# no text"})
        assert read_all(make_shelf(), address) == TEXTS[:2]

    def test_a_shard_costs_its_own_bytes(
        self, make_shelf: Callable[..., Shelf], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Of a file of four hundred slices one is read, by its range."""
        monkeypatch.setattr(listing_module, "SLICE_BYTES", 10_000)
        content = as_jsonl(TEXTS * 100)
        shelf, spec = make_shelf(), SourceSpec(self.put({"a.jsonl": content}))
        shards = shelf.list_source(spec).shards
        before = shelf.counters["fetched_bytes"]
        found = shelf.read_shard(shards[len(shards) // 2], spec)
        assert found[0] in TEXTS
        assert shelf.counters["fetched_bytes"] - before < len(content) // 4

    def test_the_same_files_are_the_same_source(self, make_shelf: Callable[..., Shelf]) -> None:
        address = self.put({"a.jsonl": as_jsonl(TEXTS)})
        one, other = (make_shelf().list_source(SourceSpec(address)) for _ in range(2))
        assert one.fingerprint == other.fingerprint

    def test_a_changed_file_is_refused(self, make_shelf: Callable[..., Shelf]) -> None:
        """Rather than mixed with what was listed; listed anew, it is another source."""
        address = self.put({"a.jsonl": as_jsonl(TEXTS)})
        shelf, spec = make_shelf(), SourceSpec(address)
        listing = shelf.list_source(spec)
        self.put({"a.jsonl": as_jsonl([text.upper() for text in TEXTS])})
        with pytest.raises(SourceError, match=r"a\.jsonl changed after it was listed"):
            shelf.read_shard(listing.shards[0], spec)
        assert shelf.list_source(spec).fingerprint != listing.fingerprint
        assert read_all(shelf, address)[0] == TEXTS[0].upper()

    @pytest.mark.parametrize("end", ["/nothing.jsonl", "/nothing/*.jsonl"])
    def test_what_is_not_there_is_one_line(
        self, make_shelf: Callable[..., Shelf], end: str
    ) -> None:
        address = self.put({"a.jsonl": as_jsonl(TEXTS)})
        with pytest.raises(SourceError, match="nothing") as caught:
            make_shelf(LITTLE_PATIENCE).list_source(SourceSpec(f"{address}{end}"))
        assert "\n" not in str(caught.value)
